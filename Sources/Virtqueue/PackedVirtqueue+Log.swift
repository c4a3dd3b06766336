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
    switch log {
    case .some(let log): buffers.list.mark(length, in: log)
    case .none: break
    }
  }

  public func didAnswer(_ command: borrowing CommandBuffers) {
    guard unsafe ring.value.logsBuffers else { return }
    switch log {
    case .some(let log): command.markAnswer(in: log)
    case .none: break
    }
  }

  /// The used descriptors from `first` on, up to where the next one goes.
  @inline(never) @usableFromInline
  func logPublished(from first: Int) {
    let end = unsafe ring.value.nextUsed.slot
    if end > first {
      logDescriptors(first, count: end &- first)
    } else {
      logDescriptors(first, count: size &- first)
      logDescriptors(0, count: end)
    }
    switch log {
    case .some(let log): log.signal()
    case .none: break
    }
  }

  func logDescriptors(_ first: Int, count: Int) {
    switch log {
    case .some(let log):
      unsafe log.mark(ring.value.descriptors + 16 &* first, length: 16 &* count)
    case .none: break
    }
  }

  @inline(never) @usableFromInline
  func logNotification() {
    switch log {
    case .some(let log): unsafe log.mark(ring.value.deviceEvents, length: PackedRing.eventBytes)
    case .none: break
    }
  }
}
