// Guest memory, with the region of the last buffer at hand.
//
// Buffers of one driver come from few regions, and most guests have one that counts.  So before the
// table is searched the region of the last hit is tried, which sits in the queue's own state: no
// loop, and no load from the table.

@safe @frozen
public struct CachedMemoryView: BitwiseCopyable {
  @usableFromInline let view: GuestMemoryView
  @usableFromInline var guest: UInt64 = 0
  @usableFromInline var size: UInt64 = 0
  @usableFromInline var base: UnsafeMutableRawPointer

  @inlinable
  public init(_ view: GuestMemoryView) {
    self.view = view
    unsafe base = UnsafeMutableRawPointer(view.table)
  }

  /// See `GuestMemoryView.run(at:length:)`.
  @inlinable @inline(__always)
  public func run(at address: UInt64, length: UInt32) -> HostRange? {
    unsafe view.run(at: address, length: length)
  }

  /// The host address of `length` bytes at guest address `address`; nil if they are not in one
  /// region.
  @inlinable @inline(__always)
  public mutating func pointer(at address: UInt64, length: UInt32) -> UnsafeMutableRawPointer? {
    let offset = address &- guest
    // No addition, hence no overflow.
    if offset < size, UInt64(length) <= size &- offset {
      return unsafe base + Int(truncatingIfNeeded: offset)
    }
    return unsafe search(address, length)
  }

  /// Searches the table, and remembers the region.
  @inlinable @inline(never)
  mutating func search(_ address: UInt64, _ length: UInt32) -> UnsafeMutableRawPointer? {
    guard let entry = unsafe view.entry(of: address) else { return nil }
    unsafe guest = entry.pointee.guest
    unsafe size = entry.pointee.size
    unsafe base = entry.pointee.base
    let offset = address &- guest
    guard UInt64(length) <= size &- offset else { return nil }
    return unsafe base + Int(truncatingIfNeeded: offset)
  }
}
