// A host port whose wire is the test: frames are injected and what was sent is recorded.
//
// It keeps account of every frame it hands out, so that a leak, a double return or a frame that was
// written past its room is a failed test (`problems`, `isComplete`), and its budgets can be made so
// small that the data path runs out of frames.
public import HostPort
public import Linux
import Synchronization

public final class ScriptedPort: HostPort {
  public struct Options: Sendable {
    public var queueCount = 1
    public var mtu = 1500
    /// Room of a frame in bytes.
    public var frameSize = 2048
    /// Frames that a packet takes at most.
    public var framesPerPacket = 1
    public var receiveFrames = 128
    public var transmitFrames = 128
    /// Frames that the kernel takes at a `flush`; the rest has to wait for the next.
    public var framesPerFlush = Int.max
    /// Sent frames come back at the next `reserve`; else after `complete`.
    public var completesAtOnce = true
    /// Plays a device that fills in checksums.
    public var fillsChecksums = false
    /// False for measuring: sent frames are counted only, and nothing here allocates.
    public var records = true
    /// A frame of this many bytes is always there to be received (0: only injected ones).
    public var endlessFrameLength = 0
    /// How it takes packets uncut.
    public var bulkLane: BulkLane?
    public init() {}
  }

  public let name = "scripted:"
  public let options: Options
  public let queues: [ScriptedPortQueue]
  private let opened = Mutex<Set<Int>>([])

  public init(_ options: Options = Options()) throws(Errno) {
    self.options = options
    var queues: [ScriptedPortQueue] = []
    for index in 0..<options.queueCount {
      queues.append(try ScriptedPortQueue(index: index, options))
    }
    self.queues = queues
  }

  public var capabilities: PortCapabilities {
    PortCapabilities(
      queueCount: options.queueCount, mtu: options.mtu, frameSize: options.frameSize)
  }

  public func openQueue(_ index: Int) throws(PortError) -> any HostPortQueue {
    guard queues.indices.contains(index) else { throw PortError("scripted: no queue \(index)") }
    guard opened.withLock({ $0.insert(index).inserted }) else {
      throw PortError("scripted: queue \(index) is open already")
    }
    return queues[index]
  }

  public subscript(_ index: Int) -> ScriptedPortQueue { queues[index] }

  /// What the data path did wrong on any queue, in words.
  public var problems: [String] { queues.flatMap(\.problems) }
}
