// The table of translations, against a model that knows every page by itself.
import GuestDriver
import GuestMemory
import Testing

@Suite("The table of translations")
struct TranslationTableTests {
  private let page: UInt64 = 4096

  /// The file offset that a snapshot leads to, found by what was written there.
  private func byte(_ view: GuestMemoryView, _ address: UInt64) -> UInt8? {
    guard let run = unsafe view.run(at: address, length: 1) else { return nil }
    return unsafe run.base.load(as: UInt8.self)
  }

  private func length(_ view: GuestMemoryView, _ address: UInt64, _ length: UInt32) -> Int? {
    guard let run = unsafe view.run(at: address, length: length) else { return nil }
    return unsafe run.length
  }

  @Test("an update maps addresses with its permission, and nothing beside them")
  func update() throws {
    let ram = try GuestRAM(bytes: 1 << 20)
    let memory = try ram.memory()
    ram.write([7], at: GuestAddress(0x3000))
    var table = TranslationTable()
    let target = ram.frontEnd(of: GuestAddress(0x3000))
    try table.update(
      IOVirtualAddress(0xabc000), size: page, to: target, permission: 1, memory: memory)
    let snapshot = table.snapshot(memory: memory)
    #expect(byte(snapshot.readable, 0xabc000) == 7)
    #expect(length(snapshot.readable, 0xabcffe, 100) == 2)
    #expect(byte(snapshot.readable, 0xabbfff) == nil)
    #expect(byte(snapshot.readable, 0xabd000) == nil)
    #expect(byte(snapshot.writable, 0xabc000) == nil)
  }

  @Test("what an update may not map is refused, and nothing has changed")
  func refused() throws {
    let ram = try GuestRAM([(0, 65536), (1 << 20, 65536)])
    let memory = try ram.memory()
    let start = ram.descriptions[0].frontEnd
    var table = TranslationTable()
    func update(_ address: UInt64, _ size: UInt64, _ target: UInt64, _ permission: UInt8) throws {
      try table.update(
        IOVirtualAddress(address), size: size, to: FrontEndAddress(target),
        permission: permission, memory: memory)
    }
    #expect(throws: TranslationError.empty(IOVirtualAddress(0x1000))) {
      try update(0x1000, 0, start.value, 3)
    }
    for permission in [0, 4, 255] as [UInt8] {
      #expect(
        throws: TranslationError.noAccess(IOVirtualAddress(0x1000), permission: permission)
      ) { try update(0x1000, page, start.value, permission) }
    }
    #expect(
      throws: TranslationError.addressOverflow(IOVirtualAddress(.max - 4095), size: 4096)
    ) { try update(.max - 4095, page, start.value, 3) }
    #expect(
      throws: TranslationError.addressOverflow(IOVirtualAddress(0), size: .max)
    ) { try update(0, .max, start.value, 3) }
    // Outside, half outside, and over the hole between two regions.
    for (target, size) in [
      (1 << 20, page), (start.value + 61440, 2 * page), (start.value, 1 << 40),
    ] {
      #expect(throws: TranslationError.outsideMemory(FrontEndAddress(target), size: size)) {
        try update(0x1000, size, target, 3)
      }
    }
    #expect(table.count == 0)
  }

  @Test("an update over two regions that touch in the front-end is two runs")
  func adjacentRegions() throws {
    let ram = try GuestRAM([(0, 8192), (8192, 8192)])
    // One right behind the other in the front-end.
    let file = try ram.duplicateFile()
    let memory = try GuestMemory([
      MemoryRegion(
        MemoryRegionDescription(
          guest: GuestAddress(0), size: 8192, frontEnd: FrontEndAddress(0x10000), offset: 8192),
        file: file),
      MemoryRegion(
        MemoryRegionDescription(
          guest: GuestAddress(8192), size: 8192, frontEnd: FrontEndAddress(0x12000), offset: 0),
        file: file),
    ])
    ram.write([1], at: GuestAddress(0))
    ram.write([2], at: GuestAddress(8192))
    var table = TranslationTable()
    try table.update(
      IOVirtualAddress(0), size: 16384, to: FrontEndAddress(0x10000), permission: 3,
      memory: memory)
    let snapshot = table.snapshot(memory: memory)
    #expect(byte(snapshot.readable, 0) == 2)
    #expect(byte(snapshot.writable, 8192) == 1)
  }

  @Test("any sequence of updates and invalidations gives what a page table would", arguments: 0..<8)
  func model(seed: UInt64) throws {
    var random = SeededGenerator(seed: seed)
    let ram = try GuestRAM([(0, 1 << 18), (1 << 20, 1 << 18)])
    let memory = try ram.memory()
    var table = TranslationTable()
    // By page: front-end page and permission.
    var model: [UInt64: (UInt64, UInt8)] = [:]
    for step in 0..<600 {
      let first = UInt64.random(in: 0..<64, using: &random)
      let count = UInt64.random(in: 1...9, using: &random)
      if random.once(in: 3) {
        table.invalidate(IOVirtualAddress(first * page), size: count * page)
        for i in 0..<count { model[first + i] = nil }
      } else {
        let region = ram.descriptions[random.once(in: 2) ? 0 : 1]
        let target = UInt64.random(in: 0...64 - count, using: &random) * page
        let permission = UInt8.random(in: 1...3, using: &random)
        try table.update(
          IOVirtualAddress(first * page), size: count * page,
          to: FrontEndAddress(region.frontEnd.value + target), permission: permission,
          memory: memory)
        for i in 0..<count {
          model[first + i] = (region.frontEnd.value + target + i * page, permission)
        }
      }
      if random.once(in: 16) { table.move(to: memory) }
      let snapshot = table.snapshot(memory: memory)
      for number in 0..<80 as Range<UInt64> {
        for bit in [1, 2] as [UInt8] {
          let view = bit == 1 ? snapshot.readable : snapshot.writable
          let run = unsafe view.run(at: number * page + 5, length: 1)
          var expected: UnsafeMutableRawPointer?
          if let (target, permission) = model[number], permission & bit != 0 {
            unsafe expected = memory.ring(at: FrontEndAddress(target + 5), length: 1)
          }
          #expect(
            unsafe run?.base == expected, "seed \(seed), step \(step), page \(number), bit \(bit)")
        }
      }
    }
  }

  @Test("what continues its neighbour becomes one with it")
  func joined() throws {
    let ram = try GuestRAM(bytes: 1 << 20)
    let memory = try ram.memory()
    let start = ram.frontEnd(of: GuestAddress(0)).value
    var table = TranslationTable()
    for number in [3, 1, 2, 0, 5] as [UInt64] {
      try table.update(
        IOVirtualAddress(number * page), size: page, to: FrontEndAddress(start + number * page),
        permission: 3, memory: memory)
    }
    #expect(table.count == 2)
    let snapshot = table.snapshot(memory: memory)
    #expect(length(snapshot.readable, 0, 1 << 20) == 4 * 4096)
    table.invalidate(IOVirtualAddress(page), size: page)
    #expect(table.count == 3)
  }

  @Test("a full table forgets the oldest range, never the newest")
  func bounded() throws {
    let ram = try GuestRAM(bytes: 1 << 20)
    let memory = try ram.memory()
    let start = ram.frontEnd(of: GuestAddress(0))
    var table = TranslationTable(capacity: 16)
    for number in 0..<1000 as Range<UInt64> {
      // Every other page, so that nothing joins.
      try table.update(
        IOVirtualAddress(number * 2 * page), size: page, to: start, permission: 3, memory: memory)
      #expect(table.count <= 16)
      #expect(
        table.firstMiss(IOVirtualAddress(number * 2 * page), size: page, access: .read) == nil)
    }
    #expect(
      table.firstMiss(IOVirtualAddress(984 * 2 * page), size: page, access: .read) == nil)
    #expect(
      table.firstMiss(IOVirtualAddress(983 * 2 * page), size: page, access: .read) != nil)
  }

  @Test("an invalidation of size 0, or past the end, goes up to the end")
  func everything() throws {
    let ram = try GuestRAM(bytes: 1 << 20)
    let memory = try ram.memory()
    let start = ram.frontEnd(of: GuestAddress(0))
    for size in [0, .max] as [UInt64] {
      var table = TranslationTable()
      for address in [0x1000, 0x5000, 0xffff_ffff_0000] as [UInt64] {
        try table.update(
          IOVirtualAddress(address), size: page, to: start, permission: 3, memory: memory)
      }
      table.invalidate(IOVirtualAddress(0x2000), size: size)
      #expect(table.count == 1)
      #expect(table.firstMiss(IOVirtualAddress(0x1000), size: page, access: .write) == nil)
    }
  }

  @Test("the first address without access is found")
  func firstMiss() throws {
    let ram = try GuestRAM(bytes: 1 << 20)
    let memory = try ram.memory()
    let start = ram.frontEnd(of: GuestAddress(0))
    var table = TranslationTable()
    func miss(_ address: UInt64, _ size: UInt64, _ access: Access) -> UInt64? {
      table.firstMiss(IOVirtualAddress(address), size: size, access: access)?.value
    }
    #expect(miss(0x1800, 16, .read) == 0x1800)
    try table.update(
      IOVirtualAddress(0x1000), size: 2 * page, to: start, permission: 3, memory: memory)
    try table.update(
      IOVirtualAddress(0x3000), size: page, to: start, permission: 1, memory: memory)
    #expect(miss(0x1800, 2 * page, .read) == nil)
    #expect(miss(0x1800, 2 * page, .write) == 0x3000)
    #expect(miss(0x1800, 4 * page, .read) == 0x4000)
    #expect(miss(.max - 3, 8, .read) == UInt64.max - 3)
  }

  @Test("a ring whose pages are scattered is mapped in one piece, and is the same memory")
  func scatteredRing() throws {
    let ram = try GuestRAM(bytes: 1 << 20)
    let memory = try ram.memory()
    var table = TranslationTable()
    // I/O pages 0 to 4 are guest pages 9, 2, 3, 200 and 1.
    for (number, guest) in [9, 2, 3, 200, 1].enumerated() {
      try table.update(
        IOVirtualAddress(0x10_0000 + UInt64(number) * page), size: page,
        to: ram.frontEnd(of: GuestAddress(UInt64(guest) * page)), permission: 3, memory: memory)
    }
    let part = RingPart(
      address: IOVirtualAddress(0x10_0100), size: 4 * 4096 + 8, access: [.read, .write])
    let mapping = try RingMapping([part], in: table, memory: memory)
    let base = unsafe try #require(mapping.pointer(at: part.address, length: part.size))
    for (number, guest) in [9, 2, 3, 200, 1].enumerated() {
      let offset = number * 4096 + 4
      let at = GuestAddress(UInt64(guest) * page + 0x104)
      if offset + 1 > part.size { break }
      ram.write([UInt8(number + 1)], at: at)
      #expect(unsafe base.load(fromByteOffset: offset, as: UInt8.self) == UInt8(number + 1))
      unsafe base.storeBytes(of: 99, toByteOffset: offset, as: UInt8.self)
      #expect(ram.read(at, count: 1) == [99])
    }
    #expect(mapping.isCurrent(in: table))
    #expect(!mapping.overlaps(IOVirtualAddress(0x10_5000), size: page))
    #expect(mapping.overlaps(IOVirtualAddress(0x10_4000), size: 0))
    // The same again is no change, another page is.
    try table.update(
      IOVirtualAddress(0x10_1000), size: page, to: ram.frontEnd(of: GuestAddress(2 * page)),
      permission: 3, memory: memory)
    #expect(mapping.isCurrent(in: table))
    try table.update(
      IOVirtualAddress(0x10_1000), size: page, to: ram.frontEnd(of: GuestAddress(7 * page)),
      permission: 3, memory: memory)
    #expect(!mapping.isCurrent(in: table))
  }

  @Test("a ring names every part that it lacks")
  func missingRing() throws {
    let ram = try GuestRAM(bytes: 1 << 20)
    let memory = try ram.memory()
    var table = TranslationTable()
    let start = ram.frontEnd(of: GuestAddress(0))
    try table.update(
      IOVirtualAddress(0x1000), size: page, to: start, permission: 1, memory: memory)
    let parts = [
      RingPart(address: IOVirtualAddress(0x1000), size: 4096 + 16, access: .read),
      RingPart(address: IOVirtualAddress(0x1100), size: 64, access: .read),
      RingPart(address: IOVirtualAddress(0x1200), size: 64, access: .write),
      RingPart(address: IOVirtualAddress(.max - 7), size: 64, access: .read),
    ]
    #expect(
      throws: RingMapping.Failure.missing([
        TranslationMiss(address: IOVirtualAddress(0x2000), access: .read),
        TranslationMiss(address: IOVirtualAddress(0x1200), access: .write),
        TranslationMiss(address: IOVirtualAddress(.max - 7), access: .read),
      ])
    ) { try RingMapping(parts, in: table, memory: memory) }
  }
}
