// One region of guest memory: where the guest sees it, where the front-end sees it, and our
// mapping of it (vhost-user specification, "Memory region description").
public import Linux

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

  /// Behind its last byte; of a region that is mapped it does not overflow.
  var frontEndEnd: UInt64 { frontEnd.value + size }
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
  let window: FileWindow

  /// Maps the region.
  /// - Parameter peer: whose memory it is: to be told when it is gone.
  public init(
    _ description: MemoryRegionDescription, file: borrowing OwnedDescriptor,
    of peer: PeerAlarm? = nil
  ) throws(GuestMemoryError) {
    guard description.size > 0 else { throw .emptyRegion(description.guest) }
    guard !description.guest.value.addingReportingOverflow(description.size).overflow,
      !description.frontEnd.value.addingReportingOverflow(description.size).overflow
    else { throw .addressOverflow(description) }
    do throws(FileWindowError) {
      window = try FileWindow(
        file, offset: description.offset, length: description.size, of: peer)
    } catch {
      switch error {
      case .overflow: throw .addressOverflow(description)
      case .beyondFile(let size): throw .beyondFile(description, fileSize: size)
      case .notMapped(let errno): throw .notMapped(description, errno)
      }
    }
    self.description = description
  }

  /// First byte of the region in this process.
  public var base: UnsafeMutableRawPointer { unsafe window.base }

  /// The same as a number, for a front-end that must know.
  public var addressHere: UInt64 { unsafe UInt64(UInt(bitPattern: window.base)) }
}
