import GuestDriver
import GuestMemory
import Testing

@Suite("The region table")
struct TableTests {
  private func length(_ memory: GuestMemory, _ address: UInt64, _ length: UInt32) -> Int? {
    guard let run = unsafe memory.view.run(at: address, length: length) else { return nil }
    return unsafe run.length
  }

  @Test("regions may come in any order and may touch")
  func order() throws {
    let ram = try GuestRAM([(0x5000, 4096), (0, 4096), (0x4000, 4096)])
    let memory = try ram.memory()
    #expect(memory.regions.map(\.description.guest.value) == [0, 0x4000, 0x5000])
    #expect(length(memory, 0x4fff, 10) == 1)
    #expect(length(memory, 0x5000, 10) == 10)
    #expect(length(memory, 0x6000, 1) == nil)
  }

  @Test("overlapping regions are refused, both named")
  func overlap() throws {
    for second in [0x1000, 0x0000, 0x2fff & ~0xfff, 0x2000] as [UInt64] {
      let ram = try GuestRAM([(0x1000, 8192), (second, 8192)])
      let low = GuestAddress(min(0x1000, second))
      let high = GuestAddress(max(0x1000, second))
      #expect(throws: GuestMemoryError.overlap(low, high)) { try ram.memory() }
    }
  }

  @Test("as many regions as the limit are taken, one more is refused")
  func limit() throws {
    let most = GuestMemory.maximumRegions
    let ram = try GuestRAM((0...most).map { (UInt64($0) * 8192, 4096) })
    var regions: [MemoryRegion] = []
    for i in 0..<most { regions.append(try ram.region(i)) }
    let memory = try GuestMemory(regions)
    #expect(length(memory, UInt64(most - 1) * 8192 + 1, 8192) == 4095)
    let last = try ram.region(most)
    #expect(throws: GuestMemoryError.tooManyRegions(limit: most)) { try memory.adding(last) }
  }

  @Test("an empty table holds nothing")
  func empty() throws {
    let memory = try GuestMemory([])
    #expect(length(memory, 0, 1) == nil)
    #expect(length(memory, .max, .max) == nil)
    #expect(unsafe memory.ring(at: FrontEndAddress(0), length: 1) == nil)
  }

  @Test("the region of the last answer makes no difference to the next one")
  func cached() throws {
    // The second and the third touch.
    let ram = try GuestRAM([(0x4000, 8192), (0x1_0000, 4096), (0x1_1000, 4096)])
    let memory = try ram.memory()
    var cached = CachedMemoryView(memory.view)
    var generator = SeededGenerator(seed: 7)
    let borders: [UInt64] = [0, 0x4000, 0x6000, 0x1_0000, 0x1_1000, 0x1_2000, .max]
    for _ in 0..<20_000 {
      let border = borders.randomElement(using: &generator)!
      let address = border &+ UInt64.random(in: 0...4, using: &generator) &- 2
      let lengths: [UInt32] = [0, 1, 2, 3, 4095, 4096, 4097, .max]
      let length = lengths.randomElement(using: &generator)!
      let run = unsafe memory.view.run(at: address, length: length)
      let whole = unsafe run.flatMap { unsafe $0.length == Int(length) ? $0.base : nil }
      #expect(unsafe cached.pointer(at: address, length: length) == whole)
    }
  }

  @Test("a run ends with its region")
  func runs() throws {
    let ram = try GuestRAM.withHole(low: 8192, high: 4096)
    let memory = try ram.memory()
    #expect(length(memory, 0, 8192) == 8192)
    #expect(length(memory, 0, 8193) == 8192)
    #expect(length(memory, 8191, .max) == 1)
    #expect(length(memory, 8192, 1) == nil)
    #expect(length(memory, (1 << 32) - 1, 2) == nil)
    #expect(length(memory, (1 << 32) + 4095, 2) == 1)
    #expect(length(memory, .max, 1) == nil)
    #expect(length(memory, 1 << 63, .max) == nil)
  }

  @Test("no bytes asked for are no bytes")
  func zero() throws {
    #expect(length(try GuestRAM(bytes: 4096).memory(), 5, 0) == 0)
  }

  @Test("a removed region is gone, its neighbours stay, and what ran before still has it")
  func removal() throws {
    let ram = try GuestRAM([(0, 4096), (4096, 4096), (8192, 4096)])
    ram.write([42], at: GuestAddress(5000))
    let before = try ram.memory()
    let after = try before.removing(ram.descriptions[1])
    #expect(length(after, 0, 8192) == 4096)
    #expect(length(after, 5000, 1) == nil)
    #expect(length(after, 8192, 1) == 1)
    let old = unsafe before.view.run(at: 5000, length: 1)
    #expect(unsafe old?.base.load(as: UInt8.self) == 42)
    // The regions that stayed are the same mappings.
    #expect(after.regions[0] === before.regions[0])
    let again = try after.adding(try ram.region(1))
    #expect(length(again, 5000, 1) == 1)
  }

  @Test("only a region of the same address, size and front-end address is removed")
  func removalOfAnother() throws {
    let ram = try GuestRAM([(0, 4096), (8192, 4096)])
    let memory = try ram.memory()
    for path in [
      \MemoryRegionDescription.guest.value, \.size, \.frontEnd.value,
    ] as [WritableKeyPath<MemoryRegionDescription, UInt64>] {
      var other = ram.descriptions[1]
      other[keyPath: path] += 4096
      #expect(throws: GuestMemoryError.noSuchRegion(other)) { try memory.removing(other) }
    }
    // The file offset is of no account in a removal.
    var same = ram.descriptions[1]
    same.offset = 0
    #expect(try memory.removing(same).regions.count == 1)
  }

  @Test("a ring is found by its front-end address, in one region only")
  func rings() throws {
    let ram = try GuestRAM([(0x10000, 8192), (0x12000, 8192)])
    let memory = try ram.memory()
    let first = ram.descriptions[0].frontEnd.value
    let found = unsafe memory.ring(at: FrontEndAddress(first + 100), length: 8092)
    #expect(unsafe found == memory.regions[0].base + 100)
    #expect(unsafe memory.ring(at: FrontEndAddress(first + 100), length: 8093) == nil)
    #expect(unsafe memory.ring(at: FrontEndAddress(first + 8192), length: 1) == nil)
    #expect(unsafe memory.ring(at: FrontEndAddress(first - 1), length: 2) == nil)
    #expect(unsafe memory.ring(at: FrontEndAddress(0x10000), length: 1) == nil)
    #expect(unsafe memory.ring(at: FrontEndAddress(.max), length: 1) == nil)
  }

  @Test("random tables answer as a plain search does")
  func againstModel() throws {
    let seed: UInt64 = 20_261_121
    var generator = SeededGenerator(seed: seed)
    for round in 0..<60 {
      var regions: [(guest: UInt64, size: UInt64)] = []
      var next: UInt64 =
        generator.once(in: 2) ? 0 : 4096 * UInt64.random(in: 1...9, using: &generator)
      for _ in 0..<Int.random(in: 1...20, using: &generator) {
        let size = 4096 * UInt64.random(in: 1...4, using: &generator)
        regions.append((next, size))
        next += size
        if generator.once(in: 2) {
          next += 4096 << UInt64.random(in: 0...30, using: &generator)
        }
      }
      let ram = try GuestRAM(regions.shuffled(using: &generator))
      let memory = try ram.memory()
      for _ in 0..<300 {
        let near = regions.randomElement(using: &generator)!
        var address = near.guest &+ UInt64.random(in: 0...near.size, using: &generator)
        if generator.once(in: 8) { address = generator.next() }
        if generator.once(in: 3) { address = near.guest &+ near.size &- 1 }
        if generator.once(in: 8) { address = near.guest &- 1 }
        var wanted = UInt32.random(in: 1...20000, using: &generator)
        if generator.once(in: 8) { wanted = UInt32(truncatingIfNeeded: generator.next()) }
        let run = unsafe memory.view.run(at: address, length: wanted)
        let home = regions.first { address >= $0.guest && address - $0.guest < $0.size }
        let expected = home.map { min(UInt64(wanted), $0.guest + $0.size - address) }
        let got = unsafe run.map { unsafe UInt64($0.length) }
        #expect(got == expected, "seed \(seed), round \(round): \(wanted) bytes at \(address)")
        // And it is that very byte.
        if let run = unsafe run, got == expected, wanted > 0 {
          let mark = UInt8(truncatingIfNeeded: generator.next())
          ram.write([mark], at: GuestAddress(address))
          #expect(unsafe run.base.load(as: UInt8.self) == mark, "seed \(seed), round \(round)")
        }
      }
    }
  }
}
