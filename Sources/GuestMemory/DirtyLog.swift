// The log of written pages: while a guest migrates, the front-end must hear of everything that is
// written into its memory (vhost-user specification, "Migration").
//
// A bit for each page of 4 KiB, by guest-physical address, in memory that the front-end shares.  It
// exchanges whole words for 0 and copies the pages afterwards, while we write.  So a bit is set
// *after* the write, with release order, by an atomic or: the exchange that takes the bit also makes
// the write visible, and one that comes between write and bit leaves the bit for the next round.
// Tempting and wrong: to leave a bit alone that is set already.  The bit may be taken, and the page
// copied, before our write is visible; only a full fence between would help, which is what the or
// costs.
//
// Hostile: the size of the log, and the addresses.  What lies beyond the log is not marked, but
// counted.
import CLinux
public import Linux

/// Why a log was refused.
public enum DirtyLogError: Error, Equatable, Sendable, CustomStringConvertible {
  case addressOverflow(offset: UInt64, size: UInt64)
  case beyondFile(offset: UInt64, size: UInt64, fileSize: UInt64)
  case notMapped(size: UInt64, Errno)
  case tooSmall(size: UInt64, needed: UInt64)

  public var description: String {
    switch self {
    case .addressOverflow(let offset, let size):
      "a log at offset \(hex(offset)) of size \(hex(size)) is empty or runs past the end of the "
        + "address space"
    case .beyondFile(let offset, let size, let fileSize):
      "log: offset \(hex(offset)) + size \(hex(size)) is beyond its file of \(hex(fileSize)) bytes"
    case .notMapped(let size, let errno): "log of size \(hex(size)): mmap: \(errno)"
    case .tooSmall(let size, let needed):
      "log of \(size) bytes, but the memory table needs \(needed) (a bit for each 4 KiB)"
    }
  }
}

public final class DirtyLog: Sendable {
  /// Bytes of guest memory for each bit.
  public static let pageSize: UInt64 = 4096

  private let area: Area
  /// Written to when pages were marked; optional.
  private let event: EventDescriptor?

  /// What every `DirtyLog` of the same log shares.
  @safe
  private final class Area: Sendable {
    let window: FileWindow
    let view: DirtyLogView
    init(_ window: FileWindow) {
      self.window = window
      let missed = UnsafeMutablePointer<UInt64>.allocate(capacity: 1)
      unsafe missed.initialize(to: 0)
      view = unsafe DirtyLogView(
        bits: window.base, pageCount: UInt64(window.length) * 8, missed: missed)
    }
    deinit { unsafe view.missed.deallocate() }
  }

  /// Maps the log.
  /// - Parameters:
  ///   - file: what it lies in, from byte `offset` on.
  ///   - size: its bytes.
  ///   - peer: whose file it is: to be told when it is cut.
  public init(
    _ file: borrowing OwnedDescriptor, offset: UInt64, size: UInt64, event: EventDescriptor? = nil,
    of peer: PeerAlarm? = nil
  ) throws(DirtyLogError) {
    do throws(FileWindowError) {
      area = Area(try FileWindow(file, offset: offset, length: size, of: peer))
    } catch {
      switch error {
      case .overflow: throw .addressOverflow(offset: offset, size: size)
      case .beyondFile(let fileSize):
        throw .beyondFile(offset: offset, size: size, fileSize: fileSize)
      case .notMapped(let errno): throw .notMapped(size: size, errno)
      }
    }
    self.event = event
  }

  /// The same log with another event (SET_LOG_FD).
  public init(_ log: DirtyLog, event: EventDescriptor?) {
    area = log.area
    self.event = event
  }

  /// What the data path sees of it: valid while this object lives.
  public var view: DirtyLogView { area.view }

  /// Bytes.
  public var size: UInt64 { UInt64(area.window.length) }

  /// Pages that were written beyond the end of the log.
  public var missedPages: UInt64 { area.view.missedPages }

  /// Bytes of log that `memory` needs.
  public static func size(for memory: GuestMemory) -> UInt64 {
    guard let last = memory.regions.last?.description else { return 0 }
    return (last.guest.value + last.size - 1) / pageSize / 8 + 1
  }

  /// Throws if the log has no bit for some page of `memory`.
  public func check(covers memory: GuestMemory) throws(DirtyLogError) {
    let needed = DirtyLog.size(for: memory)
    if size < needed { throw .tooSmall(size: size, needed: needed) }
  }

  /// Tells the front-end that pages were marked, if it wants to hear of that.
  public func signal() { event?.signal() }
}

/// What the data path sees of a `DirtyLog`.
@safe
public struct DirtyLogView: @unchecked Sendable {
  private let bits: UnsafeMutableRawPointer
  private let pageCount: UInt64
  fileprivate let missed: UnsafeMutablePointer<UInt64>

  @unsafe
  fileprivate init(
    bits: UnsafeMutableRawPointer, pageCount: UInt64, missed: UnsafeMutablePointer<UInt64>
  ) {
    unsafe self.bits = bits
    self.pageCount = pageCount
    unsafe self.missed = missed
  }

  fileprivate var missedPages: UInt64 { unsafe shared_load64_relaxed(missed) }

  /// Marks the pages of `length` bytes that were written at guest address `address`.
  /// - Returns: whether a page is marked that was not.
  @discardableResult
  public func mark(_ address: UInt64, length: Int) -> Bool {
    if length <= 0 { return false }
    let first = address &>> 12
    let (sum, overflow) = address.addingReportingOverflow(UInt64(length) &- 1)
    let last = (overflow ? UInt64.max : sum) &>> 12
    if last >= pageCount {
      _ = unsafe shared_add64_relaxed(missed, last &- max(first, pageCount) &+ 1)
    }
    var page = first
    var isNew = false
    while page <= last, page < pageCount {
      let bit = 1 &<< UInt8(page & 7)
      let byte = unsafe bits + Int(truncatingIfNeeded: page &>> 3)
      if unsafe shared_or8_release(byte, bit) & bit == 0 { isNew = true }
      page &+= 1
    }
    return isNew
  }
}
