// Random chains, valid and mutated, against the specification written plainly.
import GuestDriver
import GuestMemory
import Testing
import Virtqueue

@Suite("Random chains")
struct ChainPropertyTests {
  private static let size = 16

  /// Two adjacent regions and one far away.
  private static func ram() throws -> GuestRAM {
    try GuestRAM([(0x4000, 4096), (0x5000, 8192), (1 << 32, 8192)])
  }

  private func randomDescriptor(
    _ generator: inout SeededGenerator, _ ram: GuestRAM, entries: Int, writable: Bool
  ) -> RawDescriptor {
    let region = ram.descriptions.randomElement(using: &generator)!
    var descriptor = RawDescriptor(
      region.guest.value + UInt64.random(in: 0..<region.size, using: &generator),
      UInt32.random(in: 0...64, using: &generator), flags: writable ? DescriptorFlags.write : 0,
      next: UInt16.random(in: 0..<UInt16(entries), using: &generator))
    if !generator.once(in: 4) { descriptor.flags |= DescriptorFlags.next }
    // One of the many ways to be hostile, now and then.
    guard generator.once(in: 12) else { return descriptor }
    switch Int.random(in: 0..<7, using: &generator) {
    case 0: descriptor.address = generator.next()
    case 1: descriptor.length = UInt32(truncatingIfNeeded: generator.next())
    case 2: descriptor.next = UInt16(truncatingIfNeeded: generator.next())
    case 3: descriptor.flags ^= DescriptorFlags.write
    case 4: descriptor.flags ^= DescriptorFlags.indirect
    case 5: descriptor.flags = UInt16(truncatingIfNeeded: generator.next())
    default: descriptor.address = .max - UInt64.random(in: 0..<64, using: &generator)
    }
    return descriptor
  }

  @Test("a random chain gives what the specification says", arguments: [false, true])
  func againstModel(writable: Bool) throws {
    let seed: UInt64 = 0x5eed + (writable ? 1 : 0)
    var generator = SeededGenerator(seed: seed)
    let rig = try Rig(ChainPropertyTests.ram(), size: ChainPropertyTests.size, capacity: 10)
    let model = ChainModel(rig.driver, capacity: 10)
    let tableRoom = rig.ram.allocate(16 * 8, alignment: 16)
    var seen: [String: Int] = [:]
    for round in 0..<6000 {
      for i in 0..<ChainPropertyTests.size {
        rig.driver.pokeDescriptor(
          i,
          randomDescriptor(
            &generator, rig.ram, entries: ChainPropertyTests.size, writable: writable))
      }
      let head = UInt16.random(in: 0..<UInt16(ChainPropertyTests.size), using: &generator)
      if generator.once(in: 3) {
        let entries = Int.random(in: 1...8, using: &generator)
        rig.ram.write(
          (0..<entries).flatMap { _ in
            randomDescriptor(&generator, rig.ram, entries: entries, writable: writable).bytes
          }, at: tableRoom)
        rig.driver.pokeDescriptor(
          Int(head),
          RawDescriptor(
            tableRoom.value, UInt32(16 * entries), flags: DescriptorFlags.indirect))
      }
      let index = UInt16(truncatingIfNeeded: round)
      rig.driver.pokeAvailEntry(index, head)
      rig.driver.pokeAvailIndex(index &+ 1)
      let expected = model.walk(head, writable: writable)
      let defect = rig.defect(writable: writable)
      defer { rig.giveBack(1) }
      switch expected {
      case .malformed(let reason):
        seen["\(reason)", default: 0] += 1
        #expect(defect == reason, "seed \(seed), round \(round)")
      case .runs(let runs):
        seen["valid", default: 0] += 1
        let bytes = runs.reduce(0) { $0 + $1.length }
        #expect(defect == nil, "seed \(seed), round \(round)")
        if defect != nil { continue }
        if writable {
          #expect(rig.writable.byteCount == bytes, "seed \(seed), round \(round)")
        } else {
          #expect(
            rig.copy(from: 0, length: rig.readable.byteCount) == model.bytes(of: runs),
            "seed \(seed), round \(round)")
        }
      }
    }
    // A generator that never makes a valid chain, or never a certain defect, tests nothing.
    #expect(seen["valid", default: 0] > 500, "\(seen)")
    for reason in ChainDefect.allCases where reason != .tooLong {
      #expect(seen["\(reason)", default: 0] > 5, "\(reason) of \(seen)")
    }
  }
}
