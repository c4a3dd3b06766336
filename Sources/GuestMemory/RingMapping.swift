// Where a ring behind a vIOMMU lies in this process.
//
// Queues reach their rings by plain pointers, so each part of a ring has to be one run of host
// memory.  A driver's ring is contiguous in I/O virtual addresses, but its pages need not be so in
// guest memory: Linux takes them one by one from the IOMMU's allocator, and a ring of more than 256
// entries has several.  Such pages are mapped a second time, in the right order, which costs
// nothing afterwards.
//
// A mapping is made from the translations of one moment.  The control plane stops the queue before
// it acknowledges a change of any of them.
import CLinux
import Glibc
import Linux

/// One part of a ring: where the driver put it, its size in bytes and what the device does there.
public struct RingPart: Equatable, Sendable {
  public var address: IOVirtualAddress
  public var size: Int
  public var access: Access
  public init(address: IOVirtualAddress, size: Int, access: Access) {
    self.address = address
    self.size = size
    self.access = access
  }

  /// Whether the part has bytes at `start`...`last`.
  func overlaps(_ start: UInt64, _ last: UInt64) -> Bool {
    address.value <= last && start <= address.value &+ UInt64(size) &- 1
  }
}

public final class RingMapping: Sendable {
  struct Place {
    let part: RingPart
    let runs: [HostRun]
    /// Of the part in this process.
    let base: UInt
  }
  private let places: [Place]
  private let windows: [RingWindow]
  private let memory: GuestMemory

  public enum Failure: Error, Equatable, Sendable {
    /// These translations are needed first.
    case missing([TranslationMiss])
    /// A part cannot be had in one piece.
    case scattered(RingPart)
  }

  /// - Parameter parts: sizes are positive.
  public init(
    _ parts: [RingPart], in table: TranslationTable, memory: GuestMemory
  ) throws(Failure) {
    var misses: [TranslationMiss] = []
    for part in parts {
      if let address = table.firstMiss(
        part.address, size: UInt64(part.size), access: part.access)
      {
        misses.append(TranslationMiss(address: address, access: part.access))
      }
    }
    guard misses.isEmpty else { throw .missing(misses) }
    var places: [Place] = []
    var windows: [RingWindow] = []
    for part in parts {
      guard
        let runs = table.runs(
          part.address, size: UInt64(part.size), access: part.access)
      else { throw .scattered(part) }
      var base = runs[0].start
      if runs.count > 1 {
        guard let window = RingWindow(runs, of: memory.regions.first?.window.peer) else {
          throw .scattered(part)
        }
        windows.append(window)
        base = window.start
      }
      places.append(Place(part: part, runs: runs, base: base))
    }
    self.places = places
    self.windows = windows
    self.memory = memory
  }

  /// Whether a part is reached by addresses of its own, not by those of its memory region.
  public var isMappedAgain: Bool { !windows.isEmpty }

  /// Host pointer of a part's first byte, if `length` is not beyond the part.
  public func pointer(at address: IOVirtualAddress, length: Int) -> UnsafeMutableRawPointer? {
    for i in places.indices {
      let part = places[i].part
      if part.address == address, length <= part.size {
        return unsafe UnsafeMutableRawPointer(bitPattern: places[i].base)
      }
    }
    return nil
  }

  /// Whether any part has bytes in `size` bytes from `address` on (0: up to the end).
  public func overlaps(_ address: IOVirtualAddress, size: UInt64) -> Bool {
    let end = address.value.addingReportingOverflow(size)
    let last = size == 0 || end.overflow ? UInt64.max : end.partialValue - 1
    for i in places.indices where places[i].part.overlaps(address.value, last) {
      return true
    }
    return false
  }

  /// Whether the ring would be mapped just so by these translations.
  public func isCurrent(in table: TranslationTable) -> Bool {
    for i in places.indices {
      let place = places[i]
      guard
        let runs = table.runs(
          place.part.address, size: UInt64(place.part.size), access: place.part.access),
        runs == place.runs
      else { return false }
    }
    return true
  }
}

/// Pages of guest memory, mapped once more in the order of a ring.
@safe
final class RingWindow: @unchecked Sendable {
  /// The ring's first byte.
  let start: UInt
  private let base: UnsafeMutableRawPointer
  private let length: Int
  private let peer: PeerAlarm?

  /// - Parameters:
  ///   - runs: pages, but for the start of the first and the end of the last.
  ///   - peer: whose memory it is: to be told when it is gone.
  /// - Returns: nil if the pieces are no whole pages, or the kernel cannot map them so: huge pages
  ///   cannot be cut.
  init?(_ runs: [HostRun], of peer: PeerAlarm?) {
    let page = 4096
    let lead = Int(runs[0].start % UInt(page))
    var length = lead
    for i in runs.indices {
      // A piece begins and ends at a page border of both sides.
      if i > 0, runs[i].start % UInt(page) != 0 || length % page != 0 { return nil }
      length += Int(runs[i].length)
    }
    length = (length + page - 1) / page * page
    guard
      let base = unsafe mmap(
        nil, length, PROT_NONE, CInt(MAP_PRIVATE) | CInt(MAP_ANONYMOUS) | CInt(MAP_NORESERVE), -1,
        0),
      unsafe base != MAP_FAILED
    else { return nil }
    unsafe self.base = base
    self.length = length
    self.peer = peer
    start = UInt(bitPattern: base) + UInt(lead)
    var offset = 0
    for i in runs.indices {
      let skip = i == 0 ? lead : 0
      let bytes = (Int(runs[i].length) + skip + page - 1) / page * page
      let source = unsafe UnsafeMutableRawPointer(bitPattern: runs[i].start - UInt(skip))
      guard unsafe clinux_map_again(base + offset, source, bytes) == 0 else { return nil }
      offset += bytes
    }
    guard unsafe clinux_guard_memory(base, length, page, peer?.raw) == 0 else { return nil }
  }

  deinit {
    unsafe clinux_unguard_memory(base)
    unsafe munmap(base, length)
  }
}
