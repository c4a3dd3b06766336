// A part of a file that a peer shared with us, mapped: guest memory, the log of written pages, the
// in-flight area.
//
// Hostile: where it says that the part lies, and the file itself.  The file is asked for its size
// first: a mapping beyond the end of a file answers with SIGBUS much later, in the data path.  If
// the file is cut afterwards, zeros of our own take the place of what is gone, and the peer's alarm is
// raised.  That it is a file of memory (`DescriptorKind.sharedMemory`) has been looked at: one of
// another kind may keep whoever asks, or touches a page, as long as it likes.
public import Linux
import CLinux
import Glibc

/// Why a part of a file could not be mapped.
public enum FileWindowError: Error, Equatable, Sendable {
  case overflow
  case beyondFile(size: UInt64)
  case notMapped(Errno)
}

@safe
public final class FileWindow: Sendable {
  private let mapping: Mapping
  /// Bytes of the mapping before the part: its offset need not be page aligned.
  private let lead: Int
  let peer: PeerAlarm?
  /// Bytes, at least 1.
  public let length: Int

  /// - Parameters:
  ///   - offset: where the part starts in the file, in bytes.
  ///   - length: its bytes, at least 1.
  ///   - peer: whose file it is: to be told when it is cut.
  public init(
    _ file: borrowing OwnedDescriptor, offset: UInt64, length: UInt64, of peer: PeerAlarm? = nil
  ) throws(FileWindowError) {
    let (end, overflow) = offset.addingReportingOverflow(length)
    guard !overflow, length > 0, end <= UInt64(Int.max) else { throw .overflow }
    var status = stat()
    do throws(Errno) {
      let raw = file.raw
      try checkedCall { unsafe fstat(raw, &status) }
    } catch { throw .notMapped(error) }
    guard status.st_size >= 0, end <= UInt64(status.st_size) else {
      throw .beyondFile(size: UInt64(max(0, status.st_size)))
    }
    // The block size of a hugetlbfs file is its page size, which offset and length must respect.
    let page = max(Int(status.st_blksize), 4096)
    // A file may end with the address space; rounding up must not.
    guard end <= UInt64(Int.max - page) else { throw .overflow }
    let start = Int(offset) / page * page
    let mapped = (Int(end) - start + page - 1) / page * page
    do throws(Errno) {
      mapping = try Mapping(
        length: mapped, descriptor: file.raw, offset: start,
        flags: CInt(MAP_SHARED) | CInt(MAP_NORESERVE))
    } catch { throw .notMapped(error) }
    lead = Int(offset) - start
    self.length = Int(length)
    self.peer = peer
    // A guest's memory does not belong into our core dump.
    unsafe madvise(mapping.base, mapped, CInt(MADV_DONTDUMP))
    let result = unsafe clinux_guard_memory(mapping.base, mapped, page, peer?.raw)
    guard result == 0 else { throw .notMapped(Errno(-result)) }
  }

  deinit { unsafe clinux_unguard_memory(mapping.base) }

  /// Zeros of our own are in place of a part of it, or of another part of what the peer shares.
  public var isLost: Bool { peer?.reasons.contains(.memoryLost) ?? false }

  /// First byte of the part in this process.
  public var base: UnsafeMutableRawPointer { unsafe mapping.base + lead }
  /// All that is mapped: whole pages around the part.
  var pages: UnsafeMutableRawBufferPointer {
    unsafe UnsafeMutableRawBufferPointer(start: mapping.base, count: mapping.length)
  }
}
