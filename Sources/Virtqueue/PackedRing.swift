// The packed virtqueue's memory layout (virtio 1.3, 2.8) and the accessors of its fields.
//
//   descriptor ring            16 bytes an entry: address 8, length 4, buffer id 2, flags 2
//   driver event suppression   offset 15 bits and wrap 1 bit, flags 2 bytes  written by the driver
//   device event suppression   the same                                      written by the device
//
// vhost-user names the two event structures by what is in their place in a split ring: the
// addresses of the available and of the used ring.
//
// One ring holds what both sides write.  The flags of a descriptor say whose it is: AVAIL and USED
// differ, and AVAIL is the wrap counter of this lap: the driver has offered it; both are the
// counter: the device has returned it.  A lap is told from the next by the counter, so indices
// need no power of two, and a position is index and counter (`QueuePosition`).
//
// Addresses were checked once, when the queue was activated, and an index is always below the
// size: it starts so, and `advanced` keeps it so.
public import GuestMemory
public import SharedRing

@unsafe @frozen @usableFromInline
struct PackedRing {
  @usableFromInline let descriptors: UnsafeMutableRawPointer
  @usableFromInline let driverEvents: UnsafeMutableRawPointer
  @usableFromInline let deviceEvents: UnsafeMutableRawPointer
  /// Where buffers are looked up, by what the device does with them.
  @usableFromInline var readable: CachedMemoryView
  @usableFromInline var writable: CachedMemoryView
  @usableFromInline let size: Int
  @usableFromInline let eventIdx: Bool
  @usableFromInline let indirect: Bool
  @usableFromInline let notifyOnEmpty: Bool
  /// Writes into buffers, and into the ring, go to the log.
  @usableFromInline let logsBuffers: Bool
  @usableFromInline let logsRing: Bool

  /// The next descriptor to take.
  @usableFromInline var nextAvail: QueuePosition
  /// Where the next used descriptor goes.
  @usableFromInline var nextUsed: QueuePosition
  /// The second half of the first used descriptor since `publish`, and its index; -1: none.  It is
  /// written last: the driver sees the others with it, or none of them.
  @usableFromInline var heldUsed: UInt64
  @usableFromInline var heldIndex: Int
  /// The flags that we wrote last into the device's event structure.
  @usableFromInline var wish: UInt16 = 0
  /// Slots that were returned since the driver was last considered for a call.
  @usableFromInline var usedSinceCall: Int
  @usableFromInline var fault: QueueFault?
  /// The next chain waits for a translation.
  @usableFromInline var isStalled = false
  /// Our part of the front-end's in-flight area, if it has one.
  @usableFromInline var inflight: UnsafeMutableRawPointer?
  /// Where used descriptors are written but for the first: the ring, or with an in-flight region
  /// memory of our own that has its shape.
  @usableFromInline var returned: UnsafeMutableRawPointer
  /// With an in-flight region: where the driver knows used descriptors up to.
  @usableFromInline var publishedUsed: QueuePosition
  /// The same: slots that were returned since then, which may be more than a lap.
  @usableFromInline var unpublishedSlots = 0

  static func descriptorBytes(size: Int) -> Int { 16 * size }
  static let eventBytes = 4

  /// The place `slots` descriptors on; at most a lap.
  @inlinable @inline(__always)
  func advanced(_ position: QueuePosition, by slots: Int) -> QueuePosition {
    let index = position.slot &+ slots
    let wrap = position.value & QueuePosition.wrapBit
    if unsafe index < size { return QueuePosition(UInt16(truncatingIfNeeded: index) | wrap) }
    return unsafe QueuePosition(
      UInt16(truncatingIfNeeded: index &- size) | (wrap ^ QueuePosition.wrapBit))
  }

  /// Whether the driver has offered the descriptor at `position`.  Relaxed: nothing may be read by
  /// it.
  @inlinable @inline(__always)
  func isOffered(_ position: QueuePosition) -> Bool {
    let flags = unsafe descriptors.relaxed16(16 &* position.slot &+ 14)
    return flags & PackedDescriptor.owner == position.offeredFlags
  }

  /// What the driver wants of calls: offset and wrap counter, and flags, read together.
  @inlinable @inline(__always)
  var driverWish: (event: QueuePosition, flags: UInt16) {
    let word = unsafe driverEvents.relaxed32(0)
    return (QueuePosition(UInt16(truncatingIfNeeded: word)), UInt16(word &>> 16) & 3)
  }

  /// Both fields are written with one store, so the driver never sees half a wish.
  @inlinable @inline(__always)
  mutating func writeDeviceWish(_ event: QueuePosition, flags: UInt16) {
    unsafe wish = flags
    unsafe deviceEvents.storeRelaxed32(0, UInt32(event.value) | UInt32(flags) &<< 16)
  }
}

extension QueuePosition {
  @usableFromInline static let wrapBit: UInt16 = 0x8000

  /// The index of the descriptor, in a packed ring.
  @inlinable
  var slot: Int { @inline(__always) get { Int(value & 0x7fff) } }
  /// AVAIL and USED of a descriptor that is offered here.
  @inlinable
  var offeredFlags: UInt16 {
    @inline(__always) get {
      value & QueuePosition.wrapBit != 0 ? PackedDescriptor.avail : PackedDescriptor.used
    }
  }
  /// AVAIL and USED of a descriptor that is returned here.
  @inlinable
  var returnedFlags: UInt16 {
    @inline(__always) get { value & QueuePosition.wrapBit != 0 ? PackedDescriptor.owner : 0 }
  }
}

/// Flags of an event suppression structure; 0 asks for every notification.
@usableFromInline
enum PackedEvents {
  @usableFromInline static let disabled: UInt16 = 1
  @usableFromInline static let atDescriptor: UInt16 = 2
}

@frozen @usableFromInline
struct PackedDescriptor {
  @usableFromInline let address: UInt64
  @usableFromInline let length: UInt32
  @usableFromInline let id: UInt16
  @usableFromInline let flags: UInt16

  @usableFromInline static let next: UInt16 = 1
  @usableFromInline static let write: UInt16 = 2
  @usableFromInline static let indirect: UInt16 = 4
  /// The flags that say what kind of chain it is.
  @usableFromInline static let layout: UInt16 = 7
  @usableFromInline static let avail: UInt16 = 0x80
  @usableFromInline static let used: UInt16 = 0x8000
  @usableFromInline static let owner: UInt16 = 0x8080

  /// One fetch of each half; both are locals afterwards.  The half with the flags comes first and
  /// is an acquire: eight aligned bytes are one load, so length and id are at least as new as the
  /// flags, and the address, and all that the driver wrote before the flags, is read after it.
  @unsafe @inlinable @inline(__always)
  init(acquiring pointer: UnsafeMutableRawPointer) {
    unsafe self.init(half: pointer.acquire64(8), at: pointer)
  }

  /// For a descriptor behind a head that was acquired, or in an indirect table.
  @unsafe @inlinable @inline(__always)
  init(at pointer: UnsafeMutableRawPointer) {
    unsafe self.init(half: pointer.relaxed64(8), at: pointer)
  }

  @unsafe @inlinable @inline(__always)
  init(half: UInt64, at pointer: UnsafeMutableRawPointer) {
    address = unsafe pointer.relaxed64(0)
    length = UInt32(truncatingIfNeeded: half)
    id = UInt16(truncatingIfNeeded: half &>> 32)
    flags = UInt16(truncatingIfNeeded: half &>> 48)
  }
}
