// What one running queue writes, for the log of written pages.
//
// A queue writes by host pointer; the log is by guest-physical address.  So a pointer is translated
// back, here and only while a guest migrates: the walk of a descriptor chain keeps no guest
// addresses, and where an IOMMU is between, its addresses would not be those of the log anyway.

@safe
public final class WriteLog: Sendable {
  private struct Region {
    let base: UInt
    let size: UInt
    let guest: UInt64
  }

  private let log: DirtyLog
  /// By host address.
  private let regions: [Region]

  public init(_ log: DirtyLog, _ memory: GuestMemory) {
    self.log = log
    regions = memory.regions.map { region in
      Region(
        base: unsafe UInt(bitPattern: region.base), size: UInt(region.description.size),
        guest: region.description.guest.value)
    }.sorted { $0.base < $1.base }
  }

  /// Marks `length` bytes that were written at `pointer`, which is in guest memory.
  /// - Returns: whether a page is marked that was not.
  @discardableResult
  public func mark(_ pointer: UnsafeRawPointer, length: Int) -> Bool {
    let address = UInt(bitPattern: pointer)
    var low = 0
    var high = regions.count
    while low < high {
      let middle = (low + high) / 2
      if regions[middle].base <= address { low = middle + 1 } else { high = middle }
    }
    guard low > 0 else { return false }
    let region = regions[low - 1]
    let offset = address - region.base
    guard offset < region.size else { return false }
    return log.mark(GuestAddress(region.guest + UInt64(offset)), length: UInt64(length))
  }

  /// Marks `length` bytes that were written at guest address `address`.
  /// - Returns: whether a page is marked that was not.
  @discardableResult
  public func mark(_ address: GuestAddress, length: Int) -> Bool {
    log.mark(address, length: UInt64(length))
  }

  /// Tells the front-end that pages were marked, if it wants to hear of that.
  public func signal() { log.signal() }
}
