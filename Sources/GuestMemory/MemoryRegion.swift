// One region of guest memory: where the guest sees it, where the front-end sees it, and our
// mapping of it (vhost-user specification, "Memory region description").
public import Linux
import CLinux
import Glibc

/// What a front-end says of one region.  All four fields are its claim, checked in `MemoryRegion`.
public struct MemoryRegionDescription: Equatable, Sendable {
  public var guest: GuestAddress
  /// Bytes.
  public var size: UInt64
  public var frontEnd: FrontEndAddress
  /// Where the region starts in the file that came with it, in bytes.
  public var offset: UInt64

  public init(guest: GuestAddress, size: UInt64, frontEnd: FrontEndAddress, offset: UInt64) {
    self.guest = guest
    self.size = size
    self.frontEnd = frontEnd
    self.offset = offset
  }
}

/// Why guest memory was refused.
public enum GuestMemoryError: Error, Equatable, Sendable, CustomStringConvertible {
  case emptyRegion(GuestAddress)
  case addressOverflow(MemoryRegionDescription)
  case beyondFile(MemoryRegionDescription, fileSize: UInt64)
  case notMapped(MemoryRegionDescription, Errno)
  case overlap(GuestAddress, GuestAddress)
  case tooManyRegions(limit: Int)
  case noSuchRegion(MemoryRegionDescription)

  public var description: String {
    switch self {
    case .emptyRegion(let guest):
      "memory region at guest address \(hex(guest.value)) has size 0"
    case .addressOverflow(let region):
      "memory region at guest address \(hex(region.guest.value)): size \(hex(region.size)) or offset "
        + "\(hex(region.offset)) runs past the end of the address space"
    case .beyondFile(let region, let fileSize):
      "memory region at guest address \(hex(region.guest.value)): offset \(hex(region.offset)) + size "
        + "\(hex(region.size)) is beyond its file of \(hex(fileSize)) bytes"
    case .notMapped(let region, let errno):
      "memory region at guest address \(hex(region.guest.value)), size \(hex(region.size)): mmap: "
        + "\(errno); guest memory must be a shared memory file (share=on)"
    case .overlap(let a, let b):
      "memory regions at guest addresses \(hex(a.value)) and \(hex(b.value)) overlap"
    case .tooManyRegions(let limit):
      "more than \(limit) memory regions"
    case .noSuchRegion(let region):
      "no memory region at guest address \(hex(region.guest.value)) with size \(hex(region.size))"
    }
  }
}

func hex(_ value: UInt64) -> String { "0x" + String(value, radix: 16) }

/// A mapped region; unmapped when nobody uses it any more.
@safe
public final class MemoryRegion: Sendable {
  public let description: MemoryRegionDescription
  private let mapping: Mapping
  /// Bytes of the mapping before the region: the file offset need not be page aligned.
  private let lead: Int

  /// Maps the region.  The file is asked for its size first: a mapping beyond the end of a file
  /// answers with SIGBUS much later, in the data path.  If the file is cut later, that is caught.
  public init(
    _ description: MemoryRegionDescription, file: borrowing OwnedDescriptor
  ) throws(GuestMemoryError) {
    guard description.size > 0 else { throw .emptyRegion(description.guest) }
    let (end, endOverflow) = description.offset.addingReportingOverflow(description.size)
    guard !endOverflow, end <= UInt64(Int.max),
      !description.guest.value.addingReportingOverflow(description.size).overflow,
      !description.frontEnd.value.addingReportingOverflow(description.size).overflow
    else { throw .addressOverflow(description) }

    var status = stat()
    do throws(Errno) {
      let raw = file.raw
      try checkedCall { unsafe fstat(raw, &status) }
    } catch { throw .notMapped(description, error) }
    guard status.st_size >= 0, end <= UInt64(status.st_size) else {
      throw .beyondFile(description, fileSize: UInt64(max(0, status.st_size)))
    }
    // The block size of a hugetlbfs file is its page size, which offset and length must respect.
    let page = max(Int(status.st_blksize), 4096)
    // A file may end with the address space; rounding up must not.
    guard end <= UInt64(Int.max - page) else { throw .addressOverflow(description) }
    let start = Int(description.offset) / page * page
    let length = (Int(end) - start + page - 1) / page * page
    do throws(Errno) {
      mapping = try Mapping(
        length: length, descriptor: file.raw, offset: start,
        flags: CInt(MAP_SHARED) | CInt(MAP_NORESERVE))
    } catch { throw .notMapped(description, error) }
    lead = Int(description.offset) - start
    self.description = description
    // A guest's memory does not belong into our core dump.
    unsafe madvise(mapping.base, length, CInt(MADV_DONTDUMP))
    unsafe clinux_guard_memory(mapping.base, length, page)
  }

  deinit { unsafe clinux_unguard_memory(mapping.base) }

  /// First byte of the region in this process.
  public var base: UnsafeMutableRawPointer { unsafe mapping.base + lead }
}
