// The region table: guest-physical address to host pointer, checked.
//
// A table never changes.  A new memory map is a new table that shares the regions which stayed;
// a queue that runs keeps the table it was activated with, so memory is unmapped only after the
// last queue that could touch it has stopped.  Hostile: every address and length asked for.

/// A run of guest memory that is contiguous in this process.
@unsafe @frozen
public struct HostRange {
  public let base: UnsafeMutableRawPointer
  /// Bytes.
  public let length: Int
  /// Of memory that was checked to be in a region.
  @unsafe @inlinable @inline(__always)
  public init(base: UnsafeMutableRawPointer, length: Int) {
    unsafe self.base = base
    unsafe self.length = length
  }
}

@safe
public final class GuestMemory: Sendable {
  /// vhost-user CONFIGURE_MEM_SLOTS: as many as the kernel's vhost takes.
  public static let maximumRegions = 509

  /// Sorted by guest address, without overlap.
  public let regions: [MemoryRegion]
  public let view: GuestMemoryView
  /// By front-end address, which may overlap, since the same memory may be seen by the guest in two
  /// places.  From each beginning of a region on, the one that reaches furthest of those that have begun
  /// counts: an address that is in any of them is in that one.
  private let byFrontEnd: [(start: FrontEndAddress, region: MemoryRegion)]

  public init(_ regions: [MemoryRegion]) throws(GuestMemoryError) {
    guard regions.count <= GuestMemory.maximumRegions else {
      throw .tooManyRegions(limit: GuestMemory.maximumRegions)
    }
    let sorted = regions.sorted { $0.description.guest < $1.description.guest }
    for (a, b) in zip(sorted, sorted.dropFirst())
    where b.description.guest.value &- a.description.guest.value < a.description.size {
      throw .overlap(a.description.guest, b.description.guest)
    }
    self.regions = sorted
    var furthest: MemoryRegion?
    byFrontEnd = sorted.sorted { $0.description.frontEnd < $1.description.frontEnd }.map { region in
      if region.description.frontEndEnd > furthest?.description.frontEndEnd ?? 0 {
        furthest = region
      }
      return (region.description.frontEnd, furthest ?? region)
    }
    let table = UnsafeMutablePointer<GuestMemoryView.Entry>.allocate(capacity: max(1, sorted.count))
    for (i, region) in sorted.enumerated() {
      unsafe (table + i).initialize(
        to: GuestMemoryView.Entry(
          guest: region.description.guest.value, size: region.description.size, base: region.base))
    }
    view = unsafe GuestMemoryView(table: table, count: sorted.count)
  }

  deinit { unsafe view.table.deallocate() }

  /// Some of it is gone, and zeros of our own are in its place.
  public var isLost: Bool { regions.contains { $0.window.isLost } }

  public func adding(_ region: MemoryRegion) throws(GuestMemoryError) -> GuestMemory {
    try GuestMemory(regions + [region])
  }

  /// Without the region of exactly this guest address, size and front-end address.
  public func removing(
    _ description: MemoryRegionDescription
  ) throws(GuestMemoryError) -> GuestMemory {
    let kept = regions.filter {
      $0.description.guest != description.guest || $0.description.size != description.size
        || $0.description.frontEnd != description.frontEnd
    }
    guard kept.count < regions.count else { throw .noSuchRegion(description) }
    return try GuestMemory(kept)
  }

  /// Host pointer of `length` bytes at a front-end address, if one region holds them all.  Costs
  /// log2(regions).  Only for rings; buffers use `GuestMemoryView`.
  public func ring(at address: FrontEndAddress, length: Int) -> UnsafeMutableRawPointer? {
    guard length >= 0, let region = region(at: address) else { return nil }
    let offset = address.value - region.description.frontEnd.value
    guard UInt64(length) <= region.description.size - offset else { return nil }
    return unsafe region.base + Int(offset)
  }

  /// The region that holds the byte at a front-end address, and most bytes behind it.  Costs
  /// log2(regions).
  func region(at address: FrontEndAddress) -> MemoryRegion? {
    var low = 0
    var high = byFrontEnd.count
    while low < high {
      let middle = (low + high) / 2
      if byFrontEnd[middle].start <= address { low = middle + 1 } else { high = middle }
    }
    guard low > 0 else { return nil }
    let region = byFrontEnd[low - 1].region
    return address.value < region.description.frontEndEnd ? region : nil
  }
}

/// What the data path sees of a `GuestMemory`: valid while that object lives.
@safe @frozen
public struct GuestMemoryView: BitwiseCopyable, @unchecked Sendable {
  @unsafe @frozen @usableFromInline
  struct Entry {
    @usableFromInline let guest: UInt64
    @usableFromInline let size: UInt64
    @usableFromInline let base: UnsafeMutableRawPointer
    @usableFromInline
    init(guest: UInt64, size: UInt64, base: UnsafeMutableRawPointer) {
      unsafe self.guest = guest
      unsafe self.size = size
      unsafe self.base = base
    }
  }

  @usableFromInline let table: UnsafeMutablePointer<Entry>
  @usableFromInline let count: Int

  @unsafe
  init(table: UnsafeMutablePointer<Entry>, count: Int) {
    unsafe self.table = table
    self.count = count
  }

  /// The longest contiguous run of host memory that starts at guest address `address`, at most
  /// `length` bytes; nil if the first byte is not guest memory.  A buffer that crosses into an
  /// adjacent region is asked for again from where the run ended.  Costs log2(regions).
  @inlinable @inline(__always)
  public func run(at address: UInt64, length: UInt32) -> HostRange? {
    guard let entry = unsafe entry(of: address) else { return nil }
    let offset = unsafe address &- entry.pointee.guest
    // No addition, hence no overflow.
    let left = unsafe entry.pointee.size &- offset
    let bytes = min(UInt64(length), left)
    return unsafe HostRange(
      base: entry.pointee.base + Int(truncatingIfNeeded: offset),
      length: Int(truncatingIfNeeded: bytes))
  }

  /// The region that holds the byte at guest address `address`.
  @inlinable @inline(__always)
  func entry(of address: UInt64) -> UnsafeMutablePointer<Entry>? {
    // The last region that starts at or below the address.
    var low = 0
    var high = count
    while low < high {
      let middle = (low &+ high) &>> 1
      if unsafe table[middle].guest <= address { low = middle &+ 1 } else { high = middle }
    }
    if low == 0 { return nil }
    let entry = unsafe table + (low &- 1)
    return unsafe address &- entry.pointee.guest < entry.pointee.size ? entry : nil
  }
}
