// The log of what a split queue writes: buffers, used elements and used->idx, and what it writes to
// ask for kicks.  Always after the write (GuestMemory/DirtyLog.swift).
import GuestMemory
public import SharedRing

extension SplitVirtqueue {
  @inlinable @inline(__always)
  public func didWrite(_ buffers: borrowing DeviceWritableBuffers, length: Int) {
    if unsafe ring.value.logsBuffers { logBuffers(buffers, length: length) }
  }

  @inline(never) @usableFromInline
  func logBuffers(_ buffers: borrowing DeviceWritableBuffers, length: Int) {
    buffers.list.mark(length, in: log)
  }

  public func didAnswer(_ command: borrowing CommandBuffers) {
    if unsafe ring.value.logsBuffers { command.markAnswer(in: log) }
  }

  /// The used elements since the last time, and the index that publishes them.
  @inline(never) @usableFromInline
  func logPublished() {
    let from = unsafe ring.value.loggedUsed
    let count = unsafe ring.value.nextUsed.distance(from: from)
    unsafe ring.value.loggedUsed = ring.value.nextUsed
    let slot = unsafe from.slot(mask: ring.value.mask)
    let beforeEnd = min(count, size &- slot)
    logUsed(4 &+ 8 &* slot, length: 8 &* beforeEnd)
    // At the end of the ring they go on at its start.
    logUsed(4, length: 8 &* min(count &- beforeEnd, size))
    logUsed(2, length: 2)
    log.signal()
  }

  /// Flags and avail_event, whichever of them was written.
  @inline(never) @usableFromInline
  func logNotification() {
    if unsafe ring.value.eventIdx {
      logUsed(4 &+ 8 &* size, length: 2)
    } else {
      logUsed(0, length: 2)
    }
  }

  /// `length` bytes were written at byte `offset` of the used ring.
  func logUsed(_ offset: Int, length: Int) {
    unsafe log.mark(GuestAddress(ring.value.loggedRing.value &+ UInt64(offset)), length: length)
  }
}
