// The host side of the device, as the data path sees it: a port opens queues, a queue moves
// batches of frames.  One existential call per batch, never per packet (but for one that is as
// large as a batch: `sendUncut`).
//
// Frame ownership: `receive` hands frames out, `recycle` takes them back; `reserve` hands empty
// transmit frames out, `transmit` takes them back filled, `cancel` unfilled.  Receive and transmit
// frames are separate budgets, so a guest that floods cannot starve the other direction.
//
// A packet is one frame or several (`Frame.continues`), at most `framesPerPacket`.  Both directions
// keep packets whole: no batch ends within one, and none is sent or given up by halves.

public import Linux

/// What a port is and can do.
public struct PortCapabilities: Sendable, Equatable {
  /// Queues that can be opened, 0..<queueCount.
  public var queueCount: Int
  /// Largest packet carried, in bytes without the 14 bytes of Ethernet header (and a VLAN tag).
  public var mtu: Int
  /// Room of a frame, in bytes with Ethernet header; a packet may take several frames
  /// (`HostPortQueue.framesPerPacket`).
  public var frameSize: Int

  public init(queueCount: Int, mtu: Int, frameSize: Int) {
    self.queueCount = queueCount
    self.mtu = mtu
    self.frameSize = frameSize
  }
}

/// Why a port cannot be opened: one line that names the thing and the remedy.
public struct PortError: Error, Equatable, Sendable, CustomStringConvertible {
  public let description: String
  public init(_ description: String) { self.description = description }
}

/// Counters that the port keeps itself; frames unless said otherwise.  The kernel's own
/// (XDP_STATISTICS) where there are any.
public struct PortStatistics: Sendable, Equatable {
  /// Named, in a fixed order, for printing: ("rx_ring_full", 12).
  public var counters: [(name: String, value: UInt64)]
  public init(counters: [(name: String, value: UInt64)] = []) { self.counters = counters }
  public static func == (a: PortStatistics, b: PortStatistics) -> Bool {
    a.counters.elementsEqual(b.counters, by: ==)
  }
}

/// A host interface, or a stand-in for one.
public protocol HostPort: Sendable {
  /// The interface name, or `null:`, `reflect:`, `generate:64`.
  var name: String { get }
  var capabilities: PortCapabilities { get }
  /// Opens queue `index`; each is opened once.
  func openQueue(_ index: Int) throws(PortError) -> any HostPortQueue
}

/// One queue of a port.  It belongs to one worker at a time, which alone calls it; that is what
/// the conforming classes' unchecked `Sendable` rests on.
public protocol HostPortQueue: AnyObject, Sendable {
  var index: Int { get }
  /// What this queue really got, for the start-up line: "native, zero-copy".
  var mode: String { get }
  /// Readable while received frames wait; nil: nothing ever arrives by itself, or
  /// `hasFramesWaiting` tells.
  var descriptor: CInt? { get }
  /// An endless source: there is no use in waiting for it, nor in emptying it.
  var isAlwaysReadable: Bool { get }
  /// Of a queue without a descriptor: whether there are frames to receive now.  Who is about to
  /// sleep looks here; only the owner's own calls make it true.
  var hasFramesWaiting: Bool { get }

  /// Frames that a packet takes at most, in either direction: 1 to
  /// `FrameBatch.standardCapacity`.
  var framesPerPacket: Int { get }
  /// The device fills in the checksum of a packet in one frame that asks for it
  /// (`Frame.leaveChecksum`); frames that `reserve` hands out have room for that in front.
  var fillsChecksums: Bool { get }

  /// Appends received frames to `batch`, which has room for a packet, until no further packet fits
  /// or none wait; refills the fill ring.
  func receive(into batch: borrowing FrameBatch)
  /// Takes received frames back: all frames of `batch`, which is emptied.  By their tokens: what is
  /// in them may have been changed, as may `data`, `length` and the order in which they came.
  func recycle(_ batch: borrowing FrameBatch)

  /// Appends at most `most` empty frames to `batch`; fewer (or none) when the transmit budget is
  /// used up: completions are reaped first.  The budget is `FrameBatch.largestCapacity` or more.
  func reserve(_ most: Int, into batch: borrowing FrameBatch)
  /// Queues the first `count` frames of `batch`, whose `data` and `length` describe the bytes to
  /// send, gives the others back unsent and empties the batch.  Always takes all: a reserved frame
  /// has a place in the transmit ring.  The last one of the `count` ends a packet.
  func transmit(_ batch: borrowing FrameBatch, count: Int)
  /// Wakes the kernel for what is queued, if it asks for it.  Returns whether frames remain that
  /// the kernel has not taken, so that `flush` must be called again soon.
  func flush() -> Bool

  /// How it takes packets that are to be cut, uncut; nil: it does not.  It does not change.
  var bulkLane: BulkLane? { get }
  /// Sends a packet uncut.  Frames that were given to `transmit` before leave before it, and those that
  /// are given later behind it.
  /// - Parameters:
  ///   - packet: its virtio-net header is to be believed, and its segments fit `bulkLane.mtu`.  It is
  ///     not needed any more afterwards.
  ///   - isRepeatable: no harm is done if parts of it leave twice.
  func sendUncut(_ packet: borrowing GatheredPacket, isRepeatable: Bool) -> BulkOutcome

  /// Counts the frames that are with nobody, for `statistics`, which any thread may ask for.
  func countFrames()

  var statistics: PortStatistics { get }
}

extension HostPortQueue {
  public var fillsChecksums: Bool { false }
  public var hasFramesWaiting: Bool { isAlwaysReadable }
  public var bulkLane: BulkLane? { nil }
  public func countFrames() {}
  public func sendUncut(_ packet: borrowing GatheredPacket, isRepeatable: Bool) -> BulkOutcome {
    .cut
  }
}
