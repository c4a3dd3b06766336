// What a hostile driver may write into descriptors: the chain is malformed, for the right reason,
// and the queue goes on.
import GuestDriver
import GuestMemory
import Testing
import Virtqueue

private let next = DescriptorFlags.next
private let write = DescriptorFlags.write
private let indirect = DescriptorFlags.indirect

@Suite("Malformed chains")
struct MalformedChainTests {
  /// Offers the descriptors and checks both the reason and that the next chain is as good as ever.
  private func expect(
    _ defect: ChainDefect, _ descriptors: [RawDescriptor], in rig: Rig, writable: Bool = false,
    sourceLocation: SourceLocation = #_sourceLocation
  ) throws {
    rig.driver.pokeChain(descriptors)
    #expect(rig.defect(writable: writable) == defect, sourceLocation: sourceLocation)
    rig.giveBack(1)
    let good = rig.ram.allocate(8)
    rig.ram.write(pattern(8), at: good)
    rig.driver.pokeChain([RawDescriptor(good.value, 8)])
    #expect(rig.transmit() == .bytes(pattern(8)), sourceLocation: sourceLocation)
    #expect(rig.device.fault == nil, sourceLocation: sourceLocation)
  }

  @Test("a chain with a loop is malformed", arguments: 1...4)
  func loop(length: Int) throws {
    let rig = try Rig(size: 4)
    let address = rig.ram.allocate(64).value
    try expect(
      .loop,
      (0..<length).map {
        RawDescriptor(address, 1, flags: next, next: UInt16(($0 + 1) % length))
      }, in: rig)
  }

  @Test("a loop of empty descriptors is malformed")
  func emptyLoop() throws {
    let rig = try Rig(size: 4)
    try expect(.loop, [RawDescriptor(0, 0, flags: next, next: 0)], in: rig)
  }

  @Test("a loop in an indirect table is malformed")
  func indirectLoop() throws {
    let rig = try Rig(size: 4)
    let address = rig.ram.allocate(64).value
    let table = rig.driver.indirectTable([
      RawDescriptor(address, 1, flags: next, next: 1),
      RawDescriptor(address, 1, flags: next, next: 0),
    ])
    try expect(.loop, [RawDescriptor(table.value, 32, flags: indirect)], in: rig)
  }

  @Test("a next beyond the table is malformed", arguments: [4, 5, 0x8000, 0xffff] as [UInt16])
  func nextOutOfRange(to index: UInt16) throws {
    let rig = try Rig(size: 4)
    let address = rig.ram.allocate(64).value
    try expect(.nextOutOfRange, [RawDescriptor(address, 1, flags: next, next: index)], in: rig)
  }

  @Test("a next beyond the indirect table is malformed, even inside the ring's table")
  func indirectNextOutOfRange() throws {
    let rig = try Rig(size: 16)
    let table = rig.driver.indirectTable([
      RawDescriptor(rig.ram.allocate(1).value, 1, flags: next, next: 1)
    ])
    try expect(.nextOutOfRange, [RawDescriptor(table.value, 16, flags: indirect)], in: rig)
  }

  @Test("a buffer of the wrong direction is malformed, wherever it comes")
  func direction() throws {
    let rig = try Rig(size: 16)
    let address = rig.ram.allocate(64).value
    let good = RawDescriptor(address, 1, flags: next, next: 1)
    try expect(.wrongDirection, [RawDescriptor(address, 1, flags: write)], in: rig)
    try expect(.wrongDirection, [good, RawDescriptor(address, 1, flags: write)], in: rig)
    try expect(.wrongDirection, [RawDescriptor(address, 1)], in: rig, writable: true)
    try expect(
      .wrongDirection,
      [RawDescriptor(address, 1, flags: write | next, next: 1), RawDescriptor(address, 1)],
      in: rig, writable: true)
  }

  @Test("an address that is not guest memory is malformed")
  func unmapped() throws {
    let rig = try Rig(try GuestRAM.withHole(low: 65536, high: 65536), size: 16)
    let high: UInt64 = 1 << 32
    for (address, length) in [
      (65536, 1), (65535, 2), (high - 1, 1), (high - 1, 2), (high + 65536, 1),
      (high + 65535, 2), (UInt64.max, 1), (UInt64.max, UInt32.max), (UInt64.max - 4095, 4096),
      (0, 65537), (0, UInt32.max), (high, UInt32.max), (1 << 63, 16),
    ] as [(UInt64, UInt32)] {
      try expect(.unmapped, [RawDescriptor(address, length)], in: rig)
      try expect(.unmapped, [RawDescriptor(address, length, flags: write)], in: rig, writable: true)
    }
  }

  @Test("an indirect table of an impossible size is malformed")
  func indirectSize() throws {
    let rig = try Rig(try GuestRAM(bytes: 2 << 20), size: 16)
    let table = rig.driver.indirectTable([RawDescriptor(rig.ram.allocate(1).value, 1)])
    for length: UInt32 in [0, 1, 15, 17, 31, 16 * 32768 + 16, .max, .max - 15] {
      try expect(.badIndirectTable, [RawDescriptor(table.value, length, flags: indirect)], in: rig)
    }
  }

  @Test("an indirect table of 32768 entries is walked")
  func largestIndirect() throws {
    let rig = try Rig(try GuestRAM(bytes: 2 << 20), size: 16, capacity: 40000)
    let address = rig.ram.allocate(1).value
    let table = rig.driver.indirectTable(
      (0..<32768).map {
        RawDescriptor(address, 1, flags: $0 < 32767 ? next : 0, next: UInt16(($0 + 1) & 0x7fff))
      })
    rig.driver.pokeChain([RawDescriptor(table.value, 16 * 32768, flags: indirect)])
    #expect(rig.defect() == nil)
    #expect(rig.readable.byteCount == 32768)
  }

  @Test("an indirect table in an indirect table is malformed")
  func nested() throws {
    let rig = try Rig(size: 16)
    let inner = rig.driver.indirectTable([RawDescriptor(rig.ram.allocate(1).value, 1)])
    let outer = rig.driver.indirectTable([RawDescriptor(inner.value, 16, flags: indirect)])
    try expect(.badIndirectFlags, [RawDescriptor(outer.value, 16, flags: indirect)], in: rig)
    // One that names itself, too.
    rig.ram.write(RawDescriptor(outer.value, 16, flags: indirect).bytes, at: outer)
    try expect(.badIndirectFlags, [RawDescriptor(outer.value, 16, flags: indirect)], in: rig)
  }

  @Test("INDIRECT together with NEXT is malformed")
  func indirectAndNext() throws {
    let rig = try Rig(size: 16)
    let address = rig.ram.allocate(1).value
    let table = rig.driver.indirectTable([RawDescriptor(address, 1)])
    try expect(
      .badIndirectFlags,
      [RawDescriptor(table.value, 16, flags: indirect | next, next: 1), RawDescriptor(address, 1)],
      in: rig)
  }

  @Test("INDIRECT is malformed if it was not negotiated")
  func indirectWithoutFeature() throws {
    let rig = try Rig(size: 16, features: [.version1])
    let table = rig.driver.indirectTable([RawDescriptor(rig.ram.allocate(1).value, 1)])
    try expect(.badIndirectFlags, [RawDescriptor(table.value, 16, flags: indirect)], in: rig)
  }

  @Test("the WRITE flag of a descriptor that holds an indirect table means nothing")
  func indirectWrite() throws {
    // virtio 1.3, 2.7.5.3.2: the device MUST ignore it.
    let rig = try Rig(size: 16)
    let address = rig.ram.allocate(4)
    rig.ram.write(pattern(4), at: address)
    let table = rig.driver.indirectTable([RawDescriptor(address.value, 4)])
    rig.driver.pokeChain([RawDescriptor(table.value, 16, flags: indirect | write)])
    #expect(rig.transmit() == .bytes(pattern(4)))
  }

  @Test("an indirect table that is not guest memory is malformed")
  func indirectUnmapped() throws {
    let rig = try Rig(try GuestRAM(bytes: 65536), size: 16)
    for address in [65536, 1 << 40, UInt64.max - 15, UInt64.max] as [UInt64] {
      try expect(.unmapped, [RawDescriptor(address, 16, flags: indirect)], in: rig)
    }
  }

  @Test("an indirect table that runs out of guest memory is walked as far as it is memory")
  func indirectBeyondMemory() throws {
    let rig = try Rig(try GuestRAM(bytes: 65536), size: 16)
    let address = rig.ram.allocate(1).value
    rig.ram.write(
      RawDescriptor(address, 1, flags: next, next: 1).bytes, at: GuestAddress(65536 - 16))
    try expect(.unmapped, [RawDescriptor(65536 - 16, 32, flags: indirect)], in: rig)
    rig.ram.write(RawDescriptor(address, 1).bytes, at: GuestAddress(65536 - 16))
    rig.driver.pokeChain([RawDescriptor(65536 - 16, 32, flags: indirect)])
    #expect(rig.defect() == nil)
    #expect(rig.readable.byteCount == 1)
  }

  @Test("an indirect table may lie at any address, odd ones too")
  func indirectOddAddress() throws {
    let rig = try Rig(size: 16)
    let data = rig.ram.allocate(4)
    rig.ram.write(pattern(4), at: data)
    for shift in 1..<16 {
      let table = GuestAddress(rig.ram.allocate(64, alignment: 16).value + UInt64(shift))
      rig.ram.write(RawDescriptor(data.value, 4).bytes, at: table)
      rig.driver.pokeChain([RawDescriptor(table.value, 16, flags: indirect)])
      #expect(rig.transmit() == .bytes(pattern(4)), "address of the table mod 16 is \(shift)")
    }
  }

  @Test("more buffers than the device can hold are malformed, just as many are not")
  func tooMany() throws {
    let rig = try Rig(size: 16, capacity: 4)
    let address = rig.ram.allocate(64).value
    func chain(_ count: Int) -> [RawDescriptor] {
      (0..<count).map {
        RawDescriptor(address, 1, flags: $0 + 1 < count ? next : 0, next: UInt16($0 + 1))
      }
    }
    try expect(.tooManyBuffers, chain(5), in: rig)
    rig.driver.pokeChain(chain(4))
    #expect(rig.defect() == nil)
  }

  @Test("a chain of more than 4 GiB is malformed, one of 4 GiB less a byte is not")
  func tooLong() throws {
    let rig = try Rig(try GuestRAM([(0, 1 << 20), (1 << 32, 1 << 32)]), size: 16)
    let base: UInt64 = 1 << 32
    try expect(
      .tooLong,
      [RawDescriptor(base, .max, flags: next, next: 1), RawDescriptor(base, 1)], in: rig)
    try expect(
      .tooLong,
      (0..<16).map {
        RawDescriptor(base, .max, flags: $0 < 15 ? next : 0, next: UInt16($0 + 1))
      }, in: rig)
    rig.driver.pokeChain([RawDescriptor(base, .max)])
    #expect(rig.defect() == nil)
    #expect(rig.readable.byteCount == Int(UInt32.max))
  }
}
