// When to kick and when to call (virtio 1.3, 2.7.7, 2.7.10 and 2.8.10).
//
// Both directions are the same lock-free handshake.  One side publishes an index and then looks
// whether the other wants to hear of it; the other side says that it wants to hear and then looks
// whether something was published meanwhile.  Each does store, full fence, load.  Without the
// fences both loads may be done before either store is seen, and a wake-up is lost for ever.
//
// With EVENT_IDX a side names the index whose passing it wants to hear of.  The writer moved from
// `old` to `new`; it must notify if `event` lies in [old, new), that is
//
//     new - event - 1  <  new - old        (modulo 2^16)
//
// Tempting and wrong: `event < new` (breaks at the wrap), and comparing with the index of the last
// *publish* instead of the last *decision* (an index that was passed while nobody asked is lost).
//
// A packed ring names a descriptor and the wrap counter of its lap.  The device counts how many
// slots it has returned since the last decision; the event was passed if it lies at most as many
// behind where the next used descriptor goes.  Indices there end at the ring's size, which need
// not be a power of two, so the formula above would not do.
//
// NOTIFY_ON_EMPTY (virtio 1.3, 6.3): a driver that has offered nothing more is called whatever it
// said.
public import SharedRing

extension SplitVirtqueue {
  /// True if passing from `old` to `new` passes `event`.
  @inlinable @inline(__always)
  static func passes(event: RingIndex, from old: RingIndex, to new: RingIndex) -> Bool {
    new.value &- event.value &- 1 < new.value &- old.value
  }

  @inlinable @inline(__always)
  public func needsCall() -> Bool {
    let new = unsafe ring.value.nextUsed
    let old = unsafe ring.value.calledUsed
    if new == old { return false }
    unsafe ring.value.calledUsed = new
    // Partner: the driver's fence between writing used_event (or its flags) and reading used.idx.
    sharedMemoryFence()
    if unsafe ring.value.notifyOnEmpty && ring.value.availIdx == ring.value.nextAvail {
      return true
    }
    if unsafe ring.value.eventIdx {
      return unsafe SplitVirtqueue.passes(event: ring.value.usedEvent, from: old, to: new)
    }
    return unsafe ring.value.availFlags & SplitRing.availNoInterrupt == 0
  }

  /// With EVENT_IDX nothing needs to be written: an `avail_event` that stays behind is passed once and then no more.
  @inlinable @inline(__always)
  public func disableKicks() {
    if unsafe !ring.value.eventIdx {
      unsafe ring.value.writeUsedFlags(SplitRing.usedNoNotify)
      if unsafe ring.value.logsRing { logNotification() }
    }
  }

  @inlinable @inline(__always)
  public func enableKicks(beyond position: QueuePosition) -> Bool {
    if unsafe ring.value.fault != nil || ring.value.isStalled { return false }
    let index = RingIndex(position.value)
    if unsafe ring.value.eventIdx {
      unsafe ring.value.writeAvailEvent(index)
    } else {
      unsafe ring.value.writeUsedFlags(0)
    }
    if unsafe ring.value.logsRing { logNotification() }
    // Partner: the driver's fence between publishing avail.idx and reading avail_event or flags.
    sharedMemoryFence()
    return reloadAvailable(from: index)
  }
}

extension PackedVirtqueue {
  @inlinable @inline(__always)
  public func needsCall() -> Bool {
    let used = unsafe ring.value.usedSinceCall
    if used == 0 { return false }
    unsafe ring.value.usedSinceCall = 0
    // Partner: the driver's fence between writing its event and reading the flags of the next used
    // descriptor.
    sharedMemoryFence()
    if unsafe ring.value.notifyOnEmpty && !ring.value.isOffered(ring.value.nextAvail) {
      return true
    }
    let wish = unsafe ring.value.driverWish
    if unsafe ring.value.eventIdx && wish.flags == PackedEvents.atDescriptor {
      return passed(wish.event, within: used)
    }
    return wish.flags != PackedEvents.disabled
  }

  /// Whether `event` is one of the last `slots` descriptors before the next used one.
  @inlinable @inline(__always)
  func passed(_ event: QueuePosition, within slots: Int) -> Bool {
    let next = unsafe ring.value.nextUsed
    let sameLap = (next.value ^ event.value) & QueuePosition.wrapBit == 0
    let behind = unsafe next.slot &- event.slot &+ (sameLap ? 0 : ring.value.size)
    return behind > 0 && behind <= slots
  }

  @inlinable @inline(__always)
  public func disableKicks() {
    unsafe ring.value.writeDeviceWish(ring.value.nextUsed, flags: PackedEvents.disabled)
    if unsafe ring.value.logsRing { logNotification() }
  }

  @inlinable @inline(__always)
  public func enableKicks(beyond position: QueuePosition) -> Bool {
    if unsafe ring.value.fault != nil || ring.value.isStalled { return false }
    if unsafe ring.value.eventIdx {
      unsafe ring.value.writeDeviceWish(position, flags: PackedEvents.atDescriptor)
    } else {
      unsafe ring.value.writeDeviceWish(ring.value.nextUsed, flags: 0)
    }
    if unsafe ring.value.logsRing { logNotification() }
    // Partner: the driver's fence between offering a descriptor and reading our event.
    sharedMemoryFence()
    return unsafe ring.value.isOffered(position)
  }
}
