// The two AF_XDP rings that we produce: fill and TX.
//
// The kernel is the consumer and runs at the same time.  Entries are written with plain stores into
// slots that the kernel does not read yet, then `submit` publishes them with a release store of the
// producer index; it pairs with the kernel's acquire load of it.  The kernel's consumer index is
// read with acquire, pairing with its release store, so that a slot is written only after the
// kernel has read it; it is read only when the cached value leaves too few slots, since its cache
// line belongs to the other side.
//
// Indices run freely and wrap at 2^32: distances are `&-`.
public import SharedRing

/// Slots of a ring, by free-running index: `first`, `first &+ 1`, … (`count` of them).
@frozen
public struct RingSlots: Equatable, Sendable {
  public var first: UInt32
  public var count: UInt32

  @inlinable @inline(__always)
  public init(first: UInt32, count: UInt32) {
    self.first = first
    self.count = count
  }
}

/// The second word of an `xdp_desc`: length below, options above.
@frozen @usableFromInline
enum XDPDescriptor {
  /// XDP_PKT_CONTD (Linux 6.6), which older headers lack.
  @usableFromInline static var continues: UInt64 { @inlinable @inline(__always) get { 1 << 32 } }
  /// XDP_TX_METADATA (Linux 6.8).
  @usableFromInline static var hasMetadata: UInt64 { @inlinable @inline(__always) get { 1 << 33 } }
}

/// Where a mapped ring keeps its parts (if_xdp.h: `xdp_ring_offset`).
@unsafe @frozen
public struct RingMemory {
  public var producer: UnsafeMutableRawPointer
  public var consumer: UnsafeMutableRawPointer
  public var flags: UnsafeMutableRawPointer
  public var entries: UnsafeMutableRawPointer
  /// Entries; a power of two.
  public var size: UInt32

  @inlinable
  public init(
    producer: UnsafeMutableRawPointer, consumer: UnsafeMutableRawPointer,
    flags: UnsafeMutableRawPointer, entries: UnsafeMutableRawPointer, size: UInt32
  ) {
    unsafe self.producer = unsafe producer
    unsafe self.consumer = unsafe consumer
    unsafe self.flags = unsafe flags
    unsafe self.entries = unsafe entries
    unsafe self.size = size
  }
}

/// Reserve slots, fill them, submit them.
@safe @frozen
public struct ProducerRing {
  @usableFromInline let memory: RingMemory
  /// First slot that is not reserved.
  @usableFromInline var reserved: UInt32
  /// First slot that the kernel has not been given.
  @usableFromInline var submitted: UInt32
  /// The kernel's consumer index when it was last read, plus `size`: the first slot that must not
  /// be reserved.
  @usableFromInline var limit: UInt32

  /// Takes over a ring that nobody else produces; reads where its indices stand.
  /// - Parameter memory: must stay mapped while the ring is used; `size` must be a power of two.
  @inlinable
  public init(_ memory: RingMemory) {
    unsafe precondition(memory.size > 0 && memory.size & (memory.size &- 1) == 0)
    unsafe self.memory = unsafe memory
    reserved = unsafe memory.producer.relaxed32(0)
    submitted = reserved
    limit = unsafe memory.consumer.acquire32(0) &+ memory.size
  }

  public var size: UInt32 { @inlinable @inline(__always) get { unsafe memory.size } }

  /// Reserves at most `most` slots: fewer when the kernel has not read enough of the old entries.
  @inlinable @inline(__always)
  public mutating func reserve(_ most: UInt32) -> RingSlots {
    var free = limit &- reserved
    if free < most {
      limit = unsafe memory.consumer.acquire32(0) &+ memory.size
      free = limit &- reserved
    }
    let slots = RingSlots(first: reserved, count: min(free, most))
    reserved = reserved &+ slots.count
    return slots
  }

  /// Gives the last `count` reserved slots back.
  @inlinable @inline(__always)
  public mutating func cancel(_ count: UInt32) { reserved = reserved &- count }

  /// Writes an entry of the fill ring: the address of a chunk.
  @inlinable @inline(__always)
  public func setAddress(_ address: UInt64, at slot: UInt32) {
    unsafe memory.entries.storeRelaxed64(Int(slot & (memory.size &- 1)) &* 8, address)
  }

  /// Writes an entry of the TX ring (`xdp_desc`): an address, a length in bytes, whether the next
  /// entry belongs to the same packet, and whether `TransmitMetadata` lies in front of the address.
  @inlinable @inline(__always)
  public func setDescriptor(
    address: UInt64, length: UInt32, continues: Bool = false, hasMetadata: Bool = false,
    at slot: UInt32
  ) {
    let offset = unsafe Int(slot & (memory.size &- 1)) &* 16
    unsafe memory.entries.storeRelaxed64(offset, address)
    unsafe memory.entries.storeRelaxed64(
      offset &+ 8,
      UInt64(length) | (continues ? XDPDescriptor.continues : 0)
        | (hasMetadata ? XDPDescriptor.hasMetadata : 0))
  }

  /// Gives the kernel every reserved slot.
  @inlinable @inline(__always)
  public mutating func submit() {
    submitted = reserved
    unsafe memory.producer.release32(0, submitted)
  }

  /// Entries that the kernel has not taken yet.
  public var pending: UInt32 {
    @inlinable @inline(__always) get { unsafe submitted &- memory.consumer.acquire32(0) }
  }

  /// Whether the kernel asks for a system call (XDP_USE_NEED_WAKEUP).  Look after `submit`.
  public var needsWakeUp: Bool {
    @inlinable @inline(__always) get { unsafe memory.flags.relaxed32(0) & 1 != 0 }
  }
}
