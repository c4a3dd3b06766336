// Translation in a table as large as it may be.
import GuestDriver
import GuestMemory
import Testing

@Suite("Translation in large tables")
struct TranslationTests {
  /// Regions of one to three pages, touching or with a hole before them, at addresses that are not
  /// in the order of the file.
  private static func memory(of count: Int, seed: UInt64) throws -> (GuestRAM, GuestMemory) {
    var generator = SeededGenerator(seed: seed)
    var next: UInt64 = 0x10_0000
    var regions: [(guest: UInt64, size: UInt64)] = []
    for _ in 0..<count {
      if Bool.random(using: &generator) { next += 4096 * .random(in: 1...1000, using: &generator) }
      let size: UInt64 = 4096 * .random(in: 1...3, using: &generator)
      regions.append((next, size))
      next += size
    }
    let ram = try GuestRAM(regions.shuffled(using: &generator))
    return (ram, try ram.memory())
  }

  /// Where a run of guest memory lies in this process, and how long it is.
  private func run(_ memory: GuestMemory, _ address: UInt64) -> (base: UInt, length: Int)? {
    guard let run = unsafe memory.view.run(at: address, length: 1 << 20) else { return nil }
    return unsafe (UInt(bitPattern: run.base), run.length)
  }

  private func ring(_ memory: GuestMemory, _ address: UInt64, _ length: Int) -> UInt? {
    unsafe memory.ring(at: FrontEndAddress(address), length: length).map {
      UInt(bitPattern: $0)
    }
  }

  private func base(of region: MemoryRegionDescription, in memory: GuestMemory) -> UInt {
    unsafe UInt(bitPattern: memory.regions.first { $0.description == region }?.base)
  }

  @Test("every region's edges are found, and nothing beside them", arguments: [1, 2, 8, 64, 509])
  func edges(count: Int) throws {
    for seed in 0..<4 as Range<UInt64> {
      let (ram, memory) = try TranslationTests.memory(of: count, seed: seed)
      let starts = Set(ram.descriptions.map(\.guest.value))
      let ends = Set(ram.descriptions.map { $0.guest.value + $0.size })
      for region in ram.descriptions {
        let base = base(of: region, in: memory)
        let (first, end) = (region.guest.value, region.guest.value + region.size)
        for address in [first, first + 1, first + region.size / 2, end - 1] {
          let found = run(memory, address)
          #expect(found?.base == base + UInt(address - first))
          #expect(found?.length == Int(end - address))
        }
        if !starts.contains(end) { #expect(run(memory, end) == nil) }
        if !ends.contains(first) { #expect(run(memory, first - 1) == nil) }
      }
    }
  }

  @Test("rings are found by the front-end's addresses, inside one region", arguments: [1, 8, 509])
  func rings(count: Int) throws {
    let (ram, memory) = try TranslationTests.memory(of: count, seed: 9)
    for region in ram.descriptions {
      let base = base(of: region, in: memory)
      let (first, size) = (region.frontEnd.value, Int(region.size))
      #expect(ring(memory, first, size) == base)
      #expect(ring(memory, first + UInt64(size) - 16, 16) == base + UInt(size) - 16)
      #expect(ring(memory, first, size + 1) == nil)
      #expect(ring(memory, first + 1, size) == nil)
      #expect(ring(memory, first + UInt64(size), 1) == nil)
      #expect(ring(memory, first - 1, 1) == nil)
      #expect(ring(memory, first, -1) == nil)
    }
    #expect(ring(memory, .max, 1) == nil)
    #expect(ring(memory, 0, 1) == nil)
  }

  /// A search along the table would take some 250 steps in the large one in place of one; a search
  /// by halves takes nine, and three times the time.
  @Test("the time for one address grows far slower than the table")
  func cost() throws {
    let small = try TranslationTests.times(regions: 1)
    let large = try TranslationTests.times(regions: 509)
    #expect(large.buffer < 20 * small.buffer, "\(large.buffer) ms against \(small.buffer) ms")
    #expect(large.ring < 20 * small.ring, "\(large.ring) ms against \(small.ring) ms")
  }

  /// CPU time, in milliseconds, of the fastest of some runs over addresses all over the table.
  private static func times(regions count: Int) throws -> (buffer: Double, ring: Double) {
    let (ram, memory) = try TranslationTests.memory(of: count, seed: 1)
    let addresses = (0..<4096).map { ram.descriptions[($0 * 97) % count] }
    var found = 0
    func fastest(_ look: (MemoryRegionDescription) -> Bool) -> Double {
      (0..<5).map { _ in
        ThreadTime.milliseconds { for region in addresses where look(region) { found += 1 } }
      }.min()!
    }
    let buffer = fastest { unsafe memory.view.run(at: $0.guest.value + 8, length: 64) != nil }
    let ring = fastest { unsafe memory.ring(at: $0.frontEnd, length: 64) != nil }
    #expect(found == 2 * 5 * addresses.count)
    return (buffer, ring)
  }
}
