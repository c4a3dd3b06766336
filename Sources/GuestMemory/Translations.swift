// What the data path sees of a guest's IOMMU: I/O virtual address to host pointer, by direction.
//
// A snapshot never changes.  Each change of the translations is a new snapshot, which a running
// queue takes over between two turns; when the last worker has, the old one is unused and an
// invalidation is true.  Reading and writing have a table each, so that a permission is looked up
// with the address and costs nothing by itself, and a queue without a vIOMMU uses the same code
// over the table of its regions.

/// Translations as they were at one moment.
@safe
public final class Translations: Sendable {
  /// What may be read, and what may be written.
  public let readable: GuestMemoryView
  public let writable: GuestMemoryView
  /// Keeps what the tables point to mapped.
  private let memory: GuestMemory

  init(_ entries: [TranslationTable.Entry], memory: GuestMemory) {
    self.memory = memory
    readable = Translations.table(of: entries.filter { $0.access.contains(.read) })
    writable = Translations.table(of: entries.filter { $0.access.contains(.write) })
  }

  deinit {
    unsafe readable.table.deallocate()
    unsafe writable.table.deallocate()
  }

  private static func table(of entries: [TranslationTable.Entry]) -> GuestMemoryView {
    let table = UnsafeMutablePointer<GuestMemoryView.Entry>.allocate(
      capacity: max(1, entries.count))
    for (i, entry) in entries.enumerated() {
      unsafe (table + i).initialize(
        to: GuestMemoryView.Entry(
          guest: entry.first, size: entry.last - entry.first + 1,
          base: UnsafeMutableRawPointer(bitPattern: entry.base)!))
    }
    return unsafe GuestMemoryView(table: table, count: entries.count)
  }
}

/// A translation that a device needs and does not have.
public struct TranslationMiss: Hashable, Sendable {
  public var address: IOVirtualAddress
  public var access: Access
  /// Which chain waits for it: no two have the same number.  0: a ring waits for its own pages.
  public var chain: UInt64 = 0
  public init(address: IOVirtualAddress, access: Access) {
    self.address = address
    self.access = access
  }

  /// Whether the same translation is missing.
  public func isSame(as other: TranslationMiss) -> Bool {
    address == other.address && access == other.access
  }
}

/// Why a translation was refused.
public enum TranslationError: Error, Equatable, Sendable, CustomStringConvertible {
  case empty(IOVirtualAddress)
  case addressOverflow(IOVirtualAddress, size: UInt64)
  case outsideMemory(FrontEndAddress, size: UInt64)
  case noAccess(IOVirtualAddress, permission: UInt8)

  public var description: String {
    switch self {
    case .empty(let address):
      "translation of I/O virtual address \(address) has size 0"
    case .addressOverflow(let address, let size):
      "translation of I/O virtual address \(address), size \(hex(size)), runs past the "
        + "end of the address space"
    case .outsideMemory(let address, let size):
      "translation to front-end address \(hex(address.value)), size \(hex(size)), is not inside the "
        + "memory regions"
    case .noAccess(let address, let permission):
      "translation of I/O virtual address \(address) has permission \(permission), which "
        + "is not 1 (read), 2 (write) or 3 (both)"
    }
  }
}
