// Translations when the memory table that they point into becomes another one: what is left of them
// leads to the right memory, and finding out is bounded, whatever regions a front-end thinks up.
//
// The model is plain: the translations as they were before, page by page, and all regions that have
// a page of the front-end.  Where regions overlap there any of them is right.
import GuestDriver
import Linux
import Testing

@testable import GuestMemory

@Suite("Translations into a memory table that changes")
struct MovedTranslationTests {
  private static let page: UInt64 = 4096
  private static let start: UInt64 = 0x7000_0000_0000

  /// A region of `count` pages at page `frontEnd` of the front-end.
  private func region(
    _ ram: GuestRAM, guest: Int, frontEnd: Int, count: Int, offset: Int
  ) throws -> MemoryRegion {
    try MemoryRegion(
      MemoryRegionDescription(
        guest: GuestAddress(UInt64(guest) * MovedTranslationTests.page),
        size: UInt64(count) * MovedTranslationTests.page,
        frontEnd: FrontEndAddress(
          MovedTranslationTests.start + UInt64(frontEnd) * MovedTranslationTests.page),
        offset: UInt64(offset) * MovedTranslationTests.page),
      file: ram.duplicateFile())
  }

  private func map(
    _ table: inout TranslationTable, _ address: Int, to frontEnd: Int, count: Int,
    permission: UInt8 = 3, _ memory: GuestMemory
  ) throws {
    let page = MovedTranslationTests.page
    try table.update(
      IOVirtualAddress(UInt64(address) * page), size: UInt64(count) * page,
      to: FrontEndAddress(MovedTranslationTests.start + UInt64(frontEnd) * page),
      permission: permission, memory: memory)
  }

  /// Every translation of `entries` leads to where `memory` has the page that it led to in `former`,
  /// and every page of `wanted` is there.
  private func check(
    _ entries: [TranslationTable.Entry], _ former: [TranslationTable.Entry], _ memory: GuestMemory,
    wanted: (TranslationTable.Entry) -> Bool, _ what: Comment
  ) {
    let page = MovedTranslationTests.page
    for (low, high) in zip(entries, entries.dropFirst()) where high.first <= low.last {
      Issue.record("ranges overlap: \(what)")
      return
    }
    func places(of frontEnd: UInt64) -> [UInt] {
      memory.regions.filter {
        frontEnd &- $0.description.frontEnd.value < $0.description.size
      }.map {
        unsafe UInt(bitPattern: $0.base) + UInt(frontEnd - $0.description.frontEnd.value)
      }
    }
    var left: [UInt64: (base: UInt, access: Access, age: UInt64)] = [:]
    for entry in entries {
      for address in stride(from: entry.first, to: entry.last, by: Int(page)) {
        left[address] = (entry.part(address, address).base, entry.access, entry.age)
      }
    }
    for entry in former {
      let isWanted = wanted(entry)
      for address in stride(from: entry.first, to: entry.last, by: Int(page)) {
        let frontEnd = entry.part(address, address).frontEnd
        guard let there = left.removeValue(forKey: address) else {
          #expect(!isWanted, "\(address) is lost: \(what)")
          continue
        }
        #expect(places(of: frontEnd).contains(there.base), "\(address): \(what)")
        #expect(there.access == entry.access, "\(address): \(what)")
        #expect(there.age >= entry.age, "\(address): \(what)")
      }
    }
    #expect(left.isEmpty, "addresses that nobody has mapped: \(what)")
  }

  private func isIn(_ memory: GuestMemory, _ entry: TranslationTable.Entry) -> Bool {
    let page = Int(MovedTranslationTests.page)
    return stride(
      from: entry.frontEnd, through: entry.frontEnd + (entry.last - entry.first), by: page
    )
    .allSatisfy { address in
      memory.regions.contains {
        address &- $0.description.frontEnd.value < $0.description.size
      }
    }
  }

  // MARK: What is right

  @Test("what is left points to the right memory, and the newest is left", arguments: 0..<24)
  func model(seed: UInt64) throws {
    var random = SeededGenerator(seed: seed)
    let ram = try GuestRAM(bytes: 256 * 4096)
    /// Regions anywhere in the front-end, that overlap there or not, of honest pages or of any.
    func regions() throws -> GuestMemory {
      var regions: [MemoryRegion] = []
      var guest = 0
      var next = 0
      let isHonest = random.once(in: 2)
      let most = random.once(in: 2) ? 3 : 40
      while regions.count < most {
        let count = Int.random(in: 1...(most == 3 ? 64 : 6), using: &random)
        var frontEnd = random.once(in: 3) ? Int.random(in: 0...100, using: &random) : next
        if frontEnd + count > 128 { frontEnd = 0 }
        regions.append(
          try region(
            ram, guest: guest, frontEnd: frontEnd, count: count,
            offset: isHonest ? frontEnd : Int.random(in: 0...127, using: &random)))
        next = frontEnd + count + (random.once(in: 8) ? 1 : 0)
        guest += count + Int.random(in: 0...2, using: &random)
      }
      return try GuestMemory(regions.shuffled(using: &random))
    }
    var memory = try regions()
    let capacity = random.once(in: 2) ? 4096 : Int.random(in: 1...64, using: &random)
    var table = TranslationTable(capacity: capacity)
    for step in 0..<30 {
      for _ in 0..<Int.random(in: 0...60, using: &random) {
        // Many of these are refused.
        let count = Int.random(in: 1...24, using: &random)
        try? map(
          &table, Int.random(in: 0...400, using: &random),
          to: Int.random(in: 0...127, using: &random), count: count,
          permission: UInt8.random(in: 1...3, using: &random), memory)
        #expect(table.count <= capacity)
      }
      let former = table.entries
      memory = try regions()
      table.move(to: memory)
      #expect(table.count <= capacity)
      // A whole table fits if each of its ranges would be in pieces of a page.
      let pieces = former.reduce(0) { $0 + Int(($1.last - $1.first + 1) / 4096) + 1 }
      let oldestLeft = table.entries.map(\.age).min()
      check(
        table.entries, former, memory,
        wanted: { entry in
          guard isIn(memory, entry) else { return false }
          return pieces <= capacity || entry.age > oldestLeft ?? .max
        }, "seed \(seed), step \(step)")
    }
  }

  @Test("what moves twice is where it was, as old as it was")
  func backAgain() throws {
    let ram = try GuestRAM(bytes: 64 * 4096)
    let whole = try GuestMemory([region(ram, guest: 0, frontEnd: 0, count: 64, offset: 0)])
    let halves = try GuestMemory([
      region(ram, guest: 0, frontEnd: 0, count: 32, offset: 0),
      region(ram, guest: 32, frontEnd: 32, count: 32, offset: 32),
    ])
    var table = TranslationTable(capacity: 4)
    try map(&table, 100, to: 40, count: 1, whole)
    try map(&table, 0, to: 0, count: 1, whole)
    try map(&table, 50, to: 20, count: 1, whole)
    table.move(to: halves)
    table.move(to: whole)
    #expect(table.entries.map(\.age) == [2, 3, 1])
    try map(&table, 10, to: 50, count: 1, whole)
    try map(&table, 20, to: 50, count: 1, whole)
    #expect(table.entries.map { $0.first / 4096 } == [0, 10, 20, 50], "the first one went")
  }

  @Test("of regions that overlap in the front-end, one that holds the address is found")
  func overlapping() throws {
    let ram = try GuestRAM(bytes: 64 * 4096)
    // A window into a part of it, as of memory that is seen in two places.
    let memory = try GuestMemory([
      region(ram, guest: 0, frontEnd: 0, count: 32, offset: 0),
      region(ram, guest: 100, frontEnd: 4, count: 2, offset: 4),
      region(ram, guest: 200, frontEnd: 32, count: 8, offset: 32),
    ])
    let behind = FrontEndAddress(MovedTranslationTests.start + 10 * 4096)
    #expect(
      unsafe memory.ring(at: behind, length: 4096) == memory.regions[0].base + 10 * 4096)
    let around = FrontEndAddress(MovedTranslationTests.start + 5 * 4096)
    #expect(
      unsafe memory.ring(at: around, length: 8192) == memory.regions[0].base + 5 * 4096)
    #expect(
      memory.runs(at: FrontEndAddress(MovedTranslationTests.start), size: 40 * 4096)?.count == 2)
    #expect(
      memory.runs(at: FrontEndAddress(MovedTranslationTests.start), size: 41 * 4096) == nil)
  }

  @Test("an update in many pieces makes room by what is oldest", arguments: [1, 7, 40, 64])
  func pieces(count: Int) throws {
    let ram = try GuestRAM(bytes: 64 * 4096)
    // Each page is a region, from the last of the file to the first.
    let memory = try GuestMemory(
      (0..<64).map { try region(ram, guest: 2 * $0, frontEnd: $0, count: 1, offset: 63 - $0) })
    var table = TranslationTable(capacity: 64)
    for number in (0..<64).reversed() { try map(&table, 2 * number, to: 9, count: 1, memory) }
    #expect(table.count == 64)
    let added = try #require(
      memory.runs(
        at: FrontEndAddress(MovedTranslationTests.start), size: UInt64(count) * 4096)
    ).count
    try map(&table, 1000, to: 0, count: count, memory)
    #expect(table.count == 64)
    #expect(
      table.entries.filter { $0.first < 1000 * 4096 }.map { Int($0.first) / 8192 }
        == Array(0..<64 - added))
  }

  // MARK: What it costs

  /// Pages of the range that every translation leads to.
  private static let pieces = GuestMemory.maximumRegions - 1

  /// A full table of ranges that each lead to all of one region; without that region, each is in
  /// as many pieces as a table has regions.
  private func crowd(_ ram: GuestRAM) throws -> (TranslationTable, GuestMemory, MemoryRegion) {
    let pieces = MovedTranslationTests.pieces
    let whole = try region(ram, guest: 0, frontEnd: 0, count: pieces, offset: 0)
    var memory = try GuestMemory([whole])
    for i in 0..<pieces {
      memory = try memory.adding(
        region(ram, guest: pieces + i, frontEnd: i, count: 1, offset: 2 * (pieces - i)))
    }
    var table = TranslationTable()
    for number in 0..<TranslationTable.capacity {
      try map(&table, number * (pieces + 1), to: 0, count: pieces, memory)
    }
    #expect(table.count == TranslationTable.capacity)
    return (table, memory, whole)
  }

  @Test("a region that every range leads to falls into a region for each page")
  func splitting() throws {
    let ram = try GuestRAM(bytes: 3 * MovedTranslationTests.pieces * 4096)
    var (table, memory, whole) = try crowd(ram)
    let former = table.entries
    memory = try memory.removing(whole.description)
    let cost = ThreadTime.milliseconds { table.move(to: memory) }
    #expect(cost < 1000)
    #expect(table.count <= TranslationTable.capacity)
    #expect(table.count > TranslationTable.capacity / 2)
    let newest = Array(former.suffix(8))
    let left = table.entries.filter { $0.first >= newest[0].first }
    check(left, newest, memory, wanted: { _ in true }, "split")
  }

  @Test("as many regions lead nowhere in the end")
  func hole() throws {
    let ram = try GuestRAM(bytes: 3 * MovedTranslationTests.pieces * 4096)
    var (table, memory, whole) = try crowd(ram)
    memory = try memory.removing(whole.description)
    memory = try memory.removing(
      memory.regions.last { $0.description.frontEnd.value > MovedTranslationTests.start }!
        .description)
    let cost = ThreadTime.milliseconds { table.move(to: memory) }
    #expect(cost < 1000)
    #expect(table.count == 0)
  }

  @Test("a full table takes ranges in as many pieces as there are regions")
  func full() throws {
    let ram = try GuestRAM(bytes: 3 * MovedTranslationTests.pieces * 4096)
    var (table, memory, whole) = try crowd(ram)
    memory = try memory.removing(whole.description)
    table.move(to: memory)
    let cost = try ThreadTime.milliseconds {
      for number in 0..<4 { try map(&table, number * 1000, to: 0, count: 508, memory) }
    }
    #expect(cost < 1000)
    #expect(table.count == TranslationTable.capacity)
  }
}
