// The two AF_XDP rings that we consume: RX and completion.
//
// The kernel is the producer and runs at the same time.  Its producer index is read with acquire,
// pairing with its release store, so that the entries behind the index are visible; `release`
// gives slots back with a release store of the consumer index, so that the kernel overwrites an
// entry only after we have read it.
//
// Indices run freely and wrap at 2^32: distances are `&-`.
public import SharedRing

/// An entry of the RX ring (`xdp_desc`), read once.
@frozen
public struct RingDescriptor: Equatable, Sendable {
  /// Offset of the first byte in the UMEM.
  public var address: UInt64
  /// Bytes.
  public var length: UInt32
  /// The next entry belongs to the same packet (XDP_PKT_CONTD).
  public var continues: Bool

  @inlinable @inline(__always)
  public init(address: UInt64, length: UInt32, continues: Bool = false) {
    self.address = address
    self.length = length
    self.continues = continues
  }
}

/// Peek at entries, read them, release them.
@safe @frozen
public struct ConsumerRing {
  @usableFromInline let memory: RingMemory
  /// First entry that nobody has peeked at.
  @usableFromInline var peeked: UInt32
  /// First entry that the kernel may not overwrite.
  @usableFromInline var released: UInt32
  /// The kernel's producer index when it was last read.
  @usableFromInline var limit: UInt32

  /// Takes over a ring that nobody else consumes; reads where its indices stand.
  /// - Parameter memory: must stay mapped while the ring is used; `size` must be a power of two.
  @inlinable
  public init(_ memory: RingMemory) {
    unsafe precondition(memory.size > 0 && memory.size & (memory.size &- 1) == 0)
    unsafe self.memory = unsafe memory
    peeked = unsafe memory.consumer.relaxed32(0)
    released = peeked
    limit = peeked
  }

  public var size: UInt32 { @inlinable @inline(__always) get { unsafe memory.size } }

  /// At most `most` entries that wait.
  @inlinable @inline(__always)
  public mutating func peek(_ most: UInt32) -> RingSlots {
    var waiting = limit &- peeked
    if waiting < most {
      limit = unsafe memory.producer.acquire32(0)
      waiting = limit &- peeked
    }
    let slots = RingSlots(first: peeked, count: min(waiting, most))
    peeked = peeked &+ slots.count
    return slots
  }

  /// Un-peeks the last `count` entries: the next `peek` gives them again.
  @inlinable @inline(__always)
  public mutating func cancel(_ count: UInt32) { peeked = peeked &- count }

  /// An entry of the completion ring.
  @inlinable @inline(__always)
  public func address(at slot: UInt32) -> UInt64 {
    unsafe memory.entries.relaxed64(Int(slot & (memory.size &- 1)) &* 8)
  }

  /// An entry of the RX ring.
  @inlinable @inline(__always)
  public func descriptor(at slot: UInt32) -> RingDescriptor {
    let offset = unsafe Int(slot & (memory.size &- 1)) &* 16
    // Length and options in one load; the options are flags.
    let tail = unsafe memory.entries.relaxed64(offset &+ 8)
    return unsafe RingDescriptor(
      address: memory.entries.relaxed64(offset), length: UInt32(truncatingIfNeeded: tail),
      continues: tail & XDPDescriptor.continues != 0)
  }

  /// Gives every peeked slot back to the kernel.
  @inlinable @inline(__always)
  public mutating func release() {
    released = peeked
    unsafe memory.consumer.release32(0, released)
  }
}
