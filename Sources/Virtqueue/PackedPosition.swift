// Whether a packed ring can stand where a front-end says.
//
// QEMU does not know where a packed ring stood when its back-end was killed: nothing in guest memory
// says so, and what it gives to the next one is where the ring stood when it last stopped in order,
// often the very beginning.  A device that went on there would write into buffers that are the
// driver's again.  So the ring is looked at once, before it runs, and has to be as it must be if
// nothing is in flight at the position:
//
//   ahead of it   descriptors that the driver has offered, without a gap, and none returned
//   behind it     chains that were returned: a used descriptor, and the rest of its chain as the
//                 driver wrote it, NEXT in all but the last
//
// in every descriptor's AVAIL flag of the lap that it then has to be of.  The used descriptor of a
// chain of several keeps NEXT, which drivers ignore (virtio 1.3, 2.8.6): so the rest of a chain
// that was just returned is not taken for one that is offered.  With IN_ORDER a back-end may return
// many chains by one used descriptor, and behind the position only the laps can be checked.
//
// That is necessary and not enough: some rings look the same at two positions.  So a device notes in
// the ring where it goes on, in the one field that it may always write and that a driver reads only
// while the flags beside it say so: the offset of its own event structure.  It does so before it
// publishes.  A process that was killed has left a note that is not the position it began at, unless
// it returned nothing at all, or is exactly two laps further, which is the same position again.
// Whoever goes on wants to read there what the front-end says.  A ring that is new has no note, and
// no descriptor with USED, which the first return of its first lap sets.  An old ring may be without
// it too, late in an even lap; then nothing is offered at its beginning that is not offered, so
// going on there may strand the driver and harms nothing.
//
// Another program's device makes no such notes, so what it left is taken over only at the beginning.
import SharedRing

extension PackedRing {
  /// Says where used descriptors go on, for a successor: before they are published.
  @inlinable @inline(__always)
  mutating func notePosition() { unsafe writeDeviceWish(nextUsed, flags: wish) }

  /// True if the ring itself says that it stands at `position`, or is as good as new and
  /// `position` is the beginning.
  func isNoted(_ position: QueuePosition) -> Bool {
    if unsafe deviceEvents.relaxed16(0) == position.value { return true }
    guard position.value == QueuePosition.wrapBit else { return false }
    return unsafe (0..<size).allSatisfy {
      unsafe descriptors.relaxed16(16 * $0 + 14) & PackedDescriptor.used == 0
    }
  }

  /// True if the ring cannot stand at `position`.
  func contradicts(_ position: QueuePosition, inOrder: Bool) -> Bool {
    // The driver goes on meanwhile, and writes the first descriptor of a chain last.
    for attempt in 0..<3 {
      if attempt > 0 { for _ in 0..<2000 { spinPause() } }
      if unsafe canStand(at: position, inOrder: inOrder) { return false }
    }
    return true
  }

  private func canStand(at start: QueuePosition, inOrder: Bool) -> Bool {
    var position = start
    var slots = 0
    /// The next place; nil behind the last.
    func next() -> Place? {
      guard unsafe slots < size else { return nil }
      let half = unsafe descriptors.acquire64(16 * position.slot + 8)
      let flags = UInt16(truncatingIfNeeded: half >> 48)
      let owner = flags & PackedDescriptor.owner
      let isAvail = flags & PackedDescriptor.avail != 0
      let isNew = isAvail == (position.value & QueuePosition.wrapBit != 0)
      unsafe position = advanced(position, by: 1)
      slots += 1
      return Place(
        isNew: isNew, isReturned: owner == 0 || owner == PackedDescriptor.owner,
        hasNext: flags & PackedDescriptor.next != 0, id: UInt16(truncatingIfNeeded: half >> 32))
    }

    var place = next()
    while let offered = place, offered.isNew {
      if offered.isReturned { return false }
      place = next()
    }
    // The first that is not offered; the driver may be writing a chain that begins there.
    guard var first = place else { return true }
    var isWriting = false
    place = next()
    while let written = place, written.isNew {
      if written.isReturned { return false }
      isWriting = true
      place = next()
    }
    if isWriting {
      // What was there before is hidden; the chain behind it may have lost its beginning.
      guard let after = place else { return true }
      first = after
      place = next()
    }

    // The first may be the rest of a chain whose beginning was overwritten.
    var mayContinue = true
    var mustContinue = false
    /// Of the chain that goes on: the buffer id that its last descriptor must have.
    var id: UInt16?
    var current: Place? = first
    while let old = current {
      if old.isNew { return false }
      if !inOrder {
        if old.isReturned ? mustContinue : !mayContinue { return false }
        if !old.isReturned, !old.hasNext, let id, id != old.id { return false }
      }
      if old.isReturned { id = old.id }
      mayContinue = old.isReturned || old.hasNext
      mustContinue = old.hasNext
      current = place
      place = next()
    }
    return !mustContinue || inOrder
  }

  /// A descriptor as a place that the position may be before or behind.
  private struct Place {
    /// Written in the lap that the driver is ahead by.
    var isNew: Bool
    var isReturned: Bool
    var hasNext: Bool
    var id: UInt16
  }
}
