// The log of what a packed queue writes: buffers, used descriptors, and what it writes to ask for
// kicks.  Always after the write (GuestMemory/DirtyLog.swift).
//
// The descriptor ring is marked where it is in guest memory.  What SET_VRING_ADDR says for the log
// is the address of the "used ring", which here is the device's event structure: QEMU means that,
// others the descriptor ring.
import GuestMemory
public import SharedRing

extension PackedVirtqueue {
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

  /// The used descriptors from `first` on, up to where the next one goes, and the note of that
  /// position (PackedPosition.swift).
  @inline(never) @usableFromInline
  func logPublished(from first: Int) {
    let end = unsafe ring.value.nextUsed.slot
    if end > first {
      logDescriptors(first, count: end &- first)
    } else {
      logDescriptors(first, count: size &- first)
      logDescriptors(0, count: end)
    }
    logNotification()
    log.signal()
  }

  func logDescriptors(_ first: Int, count: Int) {
    unsafe log.mark(ring.value.descriptors + 16 &* first, length: 16 &* count)
  }

  @inline(never) @usableFromInline
  func logNotification() {
    unsafe log.mark(ring.value.deviceEvents, length: PackedRing.eventBytes)
  }
}
