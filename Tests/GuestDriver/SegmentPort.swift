// A host port that receives one TCP flow without end, or UDP datagrams of as many flows as frames: what
// merging likes best, and what it cannot use.  For measuring: a frame costs little to make, and nothing
// allocates.
public import HostPort
import Packet
import SharedRing

public struct SegmentPort: HostPort {
  public enum Kind: Sendable {
    /// Segments of one flow; each batch continues itself.
    case tcp
    /// Each of another flow.
    case udp
  }

  public let name = "segments:"
  public let capabilities = PortCapabilities(queueCount: 64, mtu: 1500, frameSize: 2048)
  let size: Int
  let kind: Kind

  /// - Parameter size: bytes of each frame, at least 60.
  public init(size: Int, kind: Kind) {
    self.size = size
    self.kind = kind
  }

  public func openQueue(_ index: Int) throws(PortError) -> any HostPortQueue {
    SegmentQueue(index: index, size: size, kind: kind)
  }
}

@safe
final class SegmentQueue: HostPortQueue, @unchecked Sendable {
  let index: Int
  let mode = "segments"
  let descriptor: CInt? = nil
  let isAlwaysReadable = true
  let framesPerPacket = 1
  private let size: Int
  private let memory: UnsafeMutableRawPointer
  /// As the frames are when they come: whoever receives them may write into them.
  private let heads: UnsafeMutableRawPointer

  private static let room = 2048
  private static let headLength = 64

  init(index: Int, size: Int, kind: SegmentPort.Kind) {
    self.index = index
    self.size = size
    let count = FrameBatch.standardCapacity
    unsafe memory = .allocate(byteCount: count * SegmentQueue.room, alignment: 4096)
    unsafe heads = .allocate(byteCount: count * SegmentQueue.headLength, alignment: 64)
    for i in 0..<count {
      let frame = SegmentQueue.frame(i, size: size, kind: kind)
      unsafe frame.withUnsafeBytes {
        unsafe (memory + i * SegmentQueue.room).copyMemory(from: $0.baseAddress!, byteCount: size)
        unsafe (heads + i * SegmentQueue.headLength).copyMemory(
          from: $0.baseAddress!, byteCount: min(size, SegmentQueue.headLength))
      }
    }
  }

  deinit {
    unsafe memory.deallocate()
    unsafe heads.deallocate()
  }

  private static func frame(_ number: Int, size: Int, kind: SegmentPort.Kind) -> [UInt8] {
    func word(_ value: Int) -> [UInt8] { [UInt8(value >> 8 & 255), UInt8(value & 255)] }
    let isTCP = kind == .tcp
    let length = size - 34
    var network: [UInt8] = [0x45, 0] + word(size - 14) + word(number) + [0x40, 0, 64]
    network += [isTCP ? 6 : 17, 0, 0, 10, 0, 0, 1, 10, 0, 0, 2]
    network.replaceSubrange(10..<12, with: word(Int(~sum(network))))
    var transport = word(5201) + word(isTCP ? 40000 : 40000 + number)
    if isTCP {
      let sequence = number * (length - 20)
      transport +=
        word(sequence >> 16) + word(sequence) + [0, 0, 0, 1, 0x50, 0x10, 1, 1, 0, 0, 0, 0]
    } else {
      transport += word(length) + [0, 0]
    }
    transport += (0..<length - transport.count).map { UInt8(truncatingIfNeeded: $0 * 7 + number) }
    let total = network[12..<20] + [0, isTCP ? 6 : 17] + word(length) + transport
    let field = isTCP ? 16 : 6
    transport.replaceSubrange(field..<field + 2, with: word(Int(~sum(Array(total)))))
    return [2, 0, 0, 0, 0, 2, 2, 0, 0, 0, 0, 1, 8, 0] + network + transport
  }

  private static func sum(_ bytes: [UInt8]) -> UInt16 {
    unsafe bytes.withUnsafeBytes {
      unsafe InternetChecksum.fold(InternetChecksum.sum($0.baseAddress!, count: $0.count)).bigEndian
    }
  }

  func receive(into batch: borrowing FrameBatch) {
    for i in 0..<(batch.capacity &- batch.count) {
      let data = unsafe memory + i &* SegmentQueue.room
      unsafe data.copyMemory(
        from: heads + i &* SegmentQueue.headLength, byteCount: SegmentQueue.headLength)
      unsafe batch.append(
        Frame(data: data, length: UInt32(size), token: UInt32(truncatingIfNeeded: i)))
    }
  }

  func recycle(_ batch: borrowing FrameBatch) { batch.removeAll() }
  func reserve(_ most: Int, into batch: borrowing FrameBatch) {}
  func transmit(_ batch: borrowing FrameBatch, count: Int) { batch.removeAll() }
  func flush() -> Bool { false }
  var statistics: PortStatistics { PortStatistics() }
}
