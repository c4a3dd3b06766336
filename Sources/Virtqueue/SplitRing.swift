// The split virtqueue's memory layout (virtio 1.3, 2.7) and the accessors of its fields.
//
//   descriptor table   16 bytes an entry: address 8, length 4, flags 2, next 2
//   available ring     flags 2, idx 2, ring[size] 2 each, used_event 2     written by the driver
//   used ring          flags 2, idx 2, ring[size] 8 each, avail_event 2    written by the device
//
// Addresses were checked once, when the queue was activated; after that an access is one line and
// cannot leave the ring, because every slot is masked.  All fields are little-endian, legacy
// drivers too on the little-endian hosts we build for.
public import GuestMemory
public import SharedRing

@unsafe @frozen @usableFromInline
struct SplitRing {
  @usableFromInline let descriptors: UnsafeMutableRawPointer
  @usableFromInline let avail: UnsafeMutableRawPointer
  @usableFromInline let used: UnsafeMutableRawPointer
  /// Where buffers are looked up, by what the device does with them.
  @usableFromInline var readable: CachedMemoryView
  @usableFromInline var writable: CachedMemoryView
  @usableFromInline let size: Int
  @usableFromInline let mask: UInt16
  @usableFromInline let eventIdx: Bool
  @usableFromInline let indirect: Bool
  @usableFromInline let notifyOnEmpty: Bool
  /// Writes into buffers, and into the used ring, go to the log.
  @usableFromInline let logsBuffers: Bool
  @usableFromInline let logsRing: Bool

  /// The next available entry to take.
  @usableFromInline var nextAvail: RingIndex
  /// The driver's index as last read; only ever ahead of `nextAvail` by at most `size`.
  @usableFromInline var availIndex: RingIndex
  /// The next used entry to write.
  @usableFromInline var nextUsed: RingIndex
  /// Our used index when the driver was last considered for a call.
  @usableFromInline var calledUsed: RingIndex
  @usableFromInline var fault: QueueFault?
  /// Our part of the front-end's in-flight area, if it has one.
  @usableFromInline var inflight: UnsafeMutableRawPointer?
  /// Address of the used ring in the log.
  @usableFromInline let loggedRing: GuestAddress
  /// Used elements before this one are in the log.
  @usableFromInline var loggedUsed: RingIndex
  /// The next chain waits for a translation.
  @usableFromInline var isStalled = false

  static func descriptorBytes(size: Int) -> Int { 16 * size }
  static func availBytes(size: Int) -> Int { 4 + 2 * size + 2 }
  static func usedBytes(size: Int) -> Int { 4 + 8 * size + 2 }

  @usableFromInline static let availNoInterrupt: UInt16 = 1
  @usableFromInline static let usedNoNotify: UInt16 = 1

  @inlinable @inline(__always)
  func availRing(_ index: RingIndex) -> UInt16 {
    unsafe avail.relaxed16(4 &+ 2 &* index.slot(mask: mask))
  }
  @inlinable @inline(__always)
  var availFlags: UInt16 { unsafe avail.relaxed16(0) }
  /// Acquire: the entries behind the index become visible with it.
  @inlinable @inline(__always)
  var availIdx: RingIndex { unsafe RingIndex(avail.acquire16(2)) }
  /// The driver wants a call when our used index passes this (EVENT_IDX).
  @inlinable @inline(__always)
  var usedEvent: RingIndex { unsafe RingIndex(avail.relaxed16(4 &+ 2 &* size)) }

  @inlinable @inline(__always)
  func writeUsed(_ index: RingIndex, head: UInt16, length: UInt32) {
    unsafe used.storeRelaxed64(
      4 &+ 8 &* index.slot(mask: mask), UInt64(head) | UInt64(length) &<< 32)
  }
  @inlinable @inline(__always)
  func publishUsedIdx(_ index: RingIndex) { unsafe used.release16(2, index.value) }
  @inlinable @inline(__always)
  func writeUsedFlags(_ flags: UInt16) { unsafe used.storeRelaxed16(0, flags) }
  /// We want a kick when the driver's index passes this (EVENT_IDX).
  @inlinable @inline(__always)
  func writeAvailEvent(_ index: RingIndex) {
    unsafe used.storeRelaxed16(4 &+ 8 &* size, index.value)
  }
}
