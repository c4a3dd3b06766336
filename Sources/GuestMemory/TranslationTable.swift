// The device's IOTLB, as the control plane keeps it (vhost-user specification, "IOMMU support").
//
// It is a cache of what the guest's IOMMU says: sorted ranges that do not overlap.  An update
// replaces whatever was there, an invalidation may cut a range in two, neighbours that continue
// each other become one.  It may forget anything at any time, since what is missing is asked for
// again; so its size is bounded, and when it is full the oldest range goes.
//
// So is the work of one change, for all else waits meanwhile: a few passes over the table and a
// look-up for each piece, of which an update has one a region and a new memory table as many as there is
// room for.
//
// Hostile: every address, size and permission.  What is stored points into mapped regions only.

public struct TranslationTable {
  /// Most ranges.  Above what the buffers of a guest's rings take in pages of 4 KiB.
  public static let capacity = 8192

  struct Entry {
    var first: UInt64
    /// Inclusive.
    var last: UInt64
    var frontEnd: UInt64
    /// Of the host.  A number, for most of what happens to a range is arithmetic.
    var base: UInt
    var access: Access
    /// When it came: a number that grows.
    var age: UInt64

    /// The part from `start` to `end`, which lie inside.
    func part(_ start: UInt64, _ end: UInt64) -> Entry {
      var part = self
      let skip = start - first
      part.first = start
      part.last = end
      part.frontEnd += skip
      part.base += UInt(skip)
      return part
    }

    /// Whether `next` continues this range in every respect.
    func continues(in next: Entry) -> Bool {
      let size = last - first + 1
      return next.first == last + 1 && next.access == access
        && next.frontEnd == frontEnd + size && next.base == base + UInt(size)
    }
  }

  /// Ascending, without overlap.
  private(set) var entries: [Entry] = []
  private var clock: UInt64 = 0
  private let capacity: Int

  public init(capacity: Int = TranslationTable.capacity) { self.capacity = capacity }

  /// Ranges; neighbours that continue each other count as one.
  public var count: Int { entries.count }

  /// What the data path gets.
  public func snapshot(memory: GuestMemory) -> Translations {
    Translations(entries, memory: memory)
  }

  // MARK: Changes

  /// Maps `size` bytes from `address` on to what the front-end has at `frontEnd`.
  /// - Throws: if that is not memory of the guest, and nothing has changed then.
  public mutating func update(
    _ address: IOVirtualAddress, size: UInt64, to frontEnd: FrontEndAddress, permission: UInt8,
    memory: GuestMemory
  ) throws(TranslationError) {
    guard size > 0 else { throw .empty(address) }
    guard permission >= 1, permission <= 3 else {
      throw .noAccess(address, permission: permission)
    }
    // The end is an address too: a walk over buffers never wraps.
    guard !address.value.addingReportingOverflow(size).overflow,
      !frontEnd.value.addingReportingOverflow(size).overflow
    else { throw .addressOverflow(address, size: size) }
    guard let runs = memory.runs(at: frontEnd, size: size) else {
      throw .outsideMemory(frontEnd, size: size)
    }
    clock += 1
    insert(address.value, runs, frontEnd.value, Access(rawValue: permission))
    forgetOldest()
  }

  /// Forgets what lies from `address` on.
  /// - Parameter size: 0 means up to the end of the address space: a front-end that invalidates
  ///   everything has a size of 2^64, which the message cannot hold.
  public mutating func invalidate(_ address: IOVirtualAddress, size: UInt64) {
    let (end, overflow) = address.value.addingReportingOverflow(size)
    remove(address.value, size == 0 || overflow ? .max : end - 1)
    forgetOldest()
  }

  public mutating func removeAll() { entries.removeAll() }

  /// Points every range into another memory table; what is not in it is forgotten.  The newest come
  /// first: a range may be in many more pieces there, and only as many are looked up as there is room
  /// for.
  public mutating func move(to memory: GuestMemory) {
    var room = capacity
    var moved: [Entry] = []
    moved.reserveCapacity(entries.count)
    for entry in entries.sorted(by: { $0.age > $1.age }) {
      let size = entry.last - entry.first + 1
      let runs = memory.runs(at: FrontEndAddress(entry.frontEnd), size: size, most: &room)
      guard let runs else { continue }
      moved += TranslationTable.pieces(entry.first, runs, entry.frontEnd, entry.access, entry.age)
    }
    entries.removeAll(keepingCapacity: true)
    moved.sort { $0.first < $1.first }
    for i in moved.indices { TranslationTable.append(moved[i], to: &entries) }
  }

  private mutating func insert(
    _ first: UInt64, _ runs: [HostRun], _ frontEnd: UInt64, _ access: Access
  ) {
    var added = TranslationTable.pieces(first, runs, frontEnd, access, clock)
    let place = remove(first, added[added.count - 1].last)
    var range = place..<place
    if place > 0, entries[place - 1].continues(in: added[0]) {
      added[0] = TranslationTable.joined(entries[place - 1], added[0])
      range = place - 1..<place
    }
    if place < entries.count, added[added.count - 1].continues(in: entries[place]) {
      added[added.count - 1] = TranslationTable.joined(added[added.count - 1], entries[place])
      range = range.lowerBound..<place + 1
    }
    entries.replaceSubrange(range, with: added)
  }

  private static func pieces(
    _ first: UInt64, _ runs: [HostRun], _ frontEnd: UInt64, _ access: Access, _ age: UInt64
  ) -> [Entry] {
    var pieces: [Entry] = []
    var offset: UInt64 = 0
    for i in runs.indices {
      let length = UInt64(runs[i].length)
      let entry = Entry(
        first: first + offset, last: first + offset + length - 1, frontEnd: frontEnd + offset,
        base: runs[i].start, access: access, age: age)
      offset += length
      append(entry, to: &pieces)
    }
    return pieces
  }

  private static func append(_ entry: Entry, to list: inout [Entry]) {
    if let last = list.last, last.continues(in: entry) {
      list[list.count - 1] = joined(last, entry)
    } else {
      list.append(entry)
    }
  }

  private static func joined(_ low: Entry, _ high: Entry) -> Entry {
    var entry = low
    entry.last = high.last
    entry.age = max(low.age, high.age)
    return entry
  }

  /// Cuts `first` to `last` out.  Returns the place where a range of just these addresses belongs.
  @discardableResult
  private mutating func remove(_ first: UInt64, _ last: UInt64) -> Int {
    let start = index(of: first)
    var end = start
    var kept: [Entry] = []
    var place = start
    while end < entries.count && entries[end].first <= last {
      let entry = entries[end]
      if entry.first < first {
        kept.append(entry.part(entry.first, first - 1))
        place += 1
      }
      if entry.last > last { kept.append(entry.part(last + 1, entry.last)) }
      end += 1
    }
    if end > start { entries.replaceSubrange(start..<end, with: kept) }
    return place
  }

  /// The first range that ends at or behind `address`.
  private func index(of address: UInt64) -> Int {
    var low = 0
    var high = entries.count
    while low < high {
      let middle = (low + high) / 2
      if entries[middle].last < address { low = middle + 1 } else { high = middle }
    }
    return low
  }

  private mutating func forgetOldest() {
    let excess = entries.count - capacity
    guard excess > 0 else { return }
    let ages = entries.map(\.age)
    // Nearly always it is one range.
    let limit = excess == 1 ? ages.min()! : ages.sorted()[excess - 1]
    // Of those of the last age not all have to go.
    var left = excess - ages.count { $0 < limit }
    entries.removeAll { entry in
      if entry.age < limit { return true }
      guard entry.age == limit, left > 0 else { return false }
      left -= 1
      return true
    }
  }

  // MARK: Looking up

  /// The first address of a range that may not be accessed so; nil if all may.
  public func firstMiss(
    _ address: IOVirtualAddress, size: UInt64, access: Access
  ) -> IOVirtualAddress? {
    var reached = address.value
    let end = address.value.addingReportingOverflow(size)
    guard !end.overflow else { return address }
    var place = index(of: reached)
    while reached < end.partialValue {
      guard place < entries.count, entries[place].first <= reached,
        entries[place].access.isSuperset(of: access)
      else { return IOVirtualAddress(reached) }
      reached = entries[place].last + 1
      place += 1
    }
    return nil
  }

  /// Where a range is in this process; nil if it may not all be accessed so.
  func runs(
    _ address: IOVirtualAddress, size: UInt64, access: Access
  ) -> [HostRun]? {
    guard size > 0, firstMiss(address, size: size, access: access) == nil else { return nil }
    var runs: [HostRun] = []
    let last = address.value + size - 1
    var place = index(of: address.value)
    while place < entries.count && entries[place].first <= last {
      let entry = entries[place]
      let part = entry.part(max(entry.first, address.value), min(entry.last, last))
      let length = UInt(part.last - part.first + 1)
      if let run = runs.last, run.start + run.length == part.base {
        runs[runs.count - 1] = HostRun(start: run.start, length: run.length + length)
      } else {
        runs.append(HostRun(start: part.base, length: length))
      }
      place += 1
    }
    return runs
  }
}

/// Contiguous memory of this process, as numbers.
struct HostRun: Equatable, Sendable {
  var start: UInt
  /// Bytes.
  var length: UInt
}

extension GuestMemory {
  /// The host memory behind a range of front-end addresses, region by region; nil if the regions
  /// do not hold all of it.
  func runs(at address: FrontEndAddress, size: UInt64) -> [HostRun]? {
    var most = regions.count
    return runs(at: address, size: size, most: &most)
  }

  /// - Parameter most: so many pieces are looked up at most; nil if there are more.  What was looked up
  ///   is taken off, found or not.
  func runs(at address: FrontEndAddress, size: UInt64, most: inout Int) -> [HostRun]? {
    var runs: [HostRun] = []
    var next = address
    var left = size
    while left > 0 {
      guard most > 0 else { return nil }
      most -= 1
      guard let region = region(at: next) else { return nil }
      let offset = next.value - region.description.frontEnd.value
      let length = min(left, region.description.size - offset)
      runs.append(
        HostRun(start: unsafe UInt(bitPattern: region.base) + UInt(offset), length: UInt(length)))
      left -= length
      // The last byte of a region may be the last of the address space.
      next = FrontEndAddress(next.value &+ length)
    }
    return runs
  }
}
