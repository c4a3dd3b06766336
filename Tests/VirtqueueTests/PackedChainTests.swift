// What a hostile driver may write into a packed ring: a chain is malformed for the right reason and
// can be returned if its end is known; a ring without end stops.
import GuestDriver
import GuestMemory
import Testing
import Virtqueue

private let next = DescriptorFlags.next
private let write = DescriptorFlags.write
private let indirect = DescriptorFlags.indirect
private let format = Rig.features.union(.ringPacked)

@Suite("Chains of a packed ring")
struct PackedChainTests {
  /// Offers the descriptors, near the end of the ring, and checks the outcome, that the chain is
  /// returned with its id, and that the next one is as good as ever.
  private func expect(
    _ defect: ChainDefect, _ descriptors: [RawPackedDescriptor], writable: Bool = false,
    in rig: Rig? = nil, sourceLocation: SourceLocation = #_sourceLocation
  ) throws {
    let rig = try rig ?? Rig(size: 6, features: format, start: 4)
    let start = rig.packed.availPlace
    let good = rig.packed.pokeChain(descriptors, at: start)
    let id = try #require(descriptors.last).id
    let chain = DescriptorChain(id: id, slots: UInt16(descriptors.count))
    #expect(
      rig.look(writable: writable) == .malformed(chain, defect), sourceLocation: sourceLocation)
    #expect(rig.skip(1) == [chain], sourceLocation: sourceLocation)
    rig.giveBack(1)
    let used = rig.packed.descriptor(start.index)
    #expect(used.id == id && used.length == 0, sourceLocation: sourceLocation)
    // NEXT is for a successor of the device; drivers ignore it.
    #expect(
      used.flags == start.returned | (descriptors.count > 1 ? next : 0),
      "returned, and nothing was written", sourceLocation: sourceLocation)
    let address = rig.ram.allocate(8)
    rig.ram.write(pattern(8), at: address)
    rig.packed.pokeChain([RawPackedDescriptor(address.value, 8, id: 9)], at: good)
    #expect(rig.transmit() == .bytes(pattern(8)), sourceLocation: sourceLocation)
    #expect(rig.device.fault == nil, sourceLocation: sourceLocation)
  }

  private static func rig(start: UInt16 = 4) throws -> Rig {
    try Rig(size: 6, features: format, start: start)
  }

  @Test("the descriptors that wait are counted exactly, over the end of the ring too")
  func waiting() throws {
    for offered in 0...6 {
      let rig = try PackedChainTests.rig()
      var place = rig.packed.availPlace
      for i in 0..<offered {
        place = rig.packed.pokeChain([RawPackedDescriptor(0, 8, id: UInt16(i))], at: place)
      }
      for want in 1...8 {
        let waiting = rig.device.availableChains(want)
        #expect(waiting == min(offered, want))
      }
    }
  }

  @Test("descriptors that are offered behind one that is not cost no more than a look")
  func gap() throws {
    let rig = try PackedChainTests.rig()
    let start = rig.packed.availPlace
    let address = rig.ram.allocate(8)
    rig.ram.write(pattern(8), at: address)
    var place = rig.packed.pokeChain([RawPackedDescriptor(address.value, 8, id: 1)], at: start)
    place.advance(3, in: 6)
    rig.packed.pokeChain([RawPackedDescriptor(address.value, 8, id: 2)], at: place)
    let waiting = rig.device.availableChains(5)
    #expect(waiting >= 1)
    #expect(rig.transmit() == .bytes(pattern(8)))
    let next = rig.look(writable: false)
    #expect(next == ChainOutcome.none)
    #expect(rig.device.fault == nil)
  }

  // Only a head has to be offered; the rest of a chain may be descriptors of the one before.
  @Test(
    "chains that overlap stop a ring with an in-flight region, and nothing else is written",
    arguments: [0, 3] as [UInt16])
  func overlap(start: UInt16) throws {
    let rig = try Rig(size: 4, features: format, start: start)
    let region = try InflightFixture(.packed, queues: 2, entries: 4)
    var config = rig.ring.config(memory: rig.memory)
    config.inflight = try region.area()
    rig.device = try AnyVirtqueue(activating: config)
    // From 0: two descriptors, then four, of which two are those.  From 3: three, then four.
    let ends = start == 0 ? 1 : 2
    rig.packed.pokeChain(
      (0..<4).map { RawPackedDescriptor(0, 8, flags: $0 == ends ? 0 : next) },
      at: rig.packed.availPlace)
    #expect(rig.skip(2).count == 2)
    rig.giveBack(2)
    #expect(rig.device.fault == .chainWithoutEnd)
    #expect(rig.device.availableChains(1) == 0)
    let second = region.bytes / 2
    #expect(stride(from: second, to: region.bytes, by: 8).allSatisfy { region[word: $0] == 0 })
  }

  @Test("a malformed packed chain is followed to its end and goes back whole")
  func malformed() throws {
    let ok = RawPackedDescriptor(0, 8, flags: next)
    try expect(.unmapped, [.init(1 << 40, 8, id: 3)])
    try expect(.unmapped, [ok, .init(1 << 40, 8, flags: next), .init(0, 8, id: 0xffff)])
    try expect(.wrongDirection, [.init(0, 8, id: 1, flags: write)])
    try expect(.wrongDirection, [.init(0, 8, flags: write | next), .init(0, 8, id: 2)])
    try expect(.wrongDirection, [.init(0, 8, id: 1)], writable: true)
    try expect(
      .wrongDirection, [.init(0, 8, flags: write | next), .init(0, 8, id: 2)], writable: true)
    let small = try Rig(size: 6, features: format, start: 4, capacity: 2)
    try expect(.tooManyBuffers, [ok, ok, .init(0, 8, id: 5)], in: small)
  }

  @Test("a packed indirect table is alone in its chain, negotiated, and of a possible size")
  func badTables() throws {
    let ok = RawPackedDescriptor(0, 8, flags: next)
    let table = RawPackedDescriptor(0, 16, id: 7, flags: indirect)
    try expect(.badIndirectFlags, [ok, table])
    try expect(
      .badIndirectFlags, [.init(0, 16, id: 1, flags: indirect | next), .init(0, 8, id: 7)])
    try expect(
      .badIndirectFlags, [table], in: Rig(size: 6, features: [.version1, .ringPacked], start: 4))
    for length in [0, 15, 17, 16 * 32769, .max] as [UInt32] {
      try expect(.badIndirectTable, [.init(0, length, id: 7, flags: indirect)])
    }
    try expect(.unmapped, [.init(1 << 40, 16, id: 7, flags: indirect)])
    try expect(.unmapped, [.init((1 << 20) - 16, 32, id: 7, flags: indirect)])
  }

  @Test("a packed indirect table is read in order, and transmitted whatever its flags say")
  func tables() throws {
    let rig = try PackedChainTests.rig()
    let packet = pattern(30)
    let places = ChainLayout("", [10, 15, 5]).place(in: rig.ram)
    rig.ram.scatter(packet, over: places)
    let table = rig.ram.allocate(48, alignment: 16)
    rig.ram.write(
      places.enumerated().flatMap { i, place in
        RawPackedDescriptor(
          place.address.value, place.length, id: 77,
          flags: [next, indirect, 0xffff][i]
        ).bytes
      }, at: table)
    // WRITE of the descriptor that holds the table means nothing either.
    rig.packed.pokeChain(
      [.init(table.value, 48, id: 2, flags: indirect | write)], at: rig.packed.availPlace)
    #expect(rig.transmit() == .bytes(packet))
    #expect(rig.packed.descriptor(rig.packed.availPlace.index).id == 2)
  }

  @Test("a packed indirect table may cross a region border")
  func scatteredTable() throws {
    let rig = try Rig(
      try GuestRAM.withBorders(count: 8, regionBytes: 8192), size: 5, features: format, start: 4)
    let packet = pattern(64)
    let buffers = ChainLayout("", [12, 20, 32]).place(in: rig.ram)
    rig.ram.scatter(packet, over: buffers)
    var place = rig.packed.availPlace
    for before in [16, 32] {
      let table = rig.ram.allocateAcrossBorder(48, before: before)
      rig.ram.write(
        buffers.flatMap { RawPackedDescriptor($0.address.value, $0.length).bytes }, at: table)
      place = rig.packed.pokeChain([.init(table.value, 48, flags: indirect)], at: place)
      #expect(rig.transmit() == .bytes(packet), "\(before) bytes before the border")
    }
    let split = rig.ram.allocateAcrossBorder(48, before: 8)
    rig.packed.pokeChain([.init(split.value, 48, flags: indirect)], at: place)
    #expect(rig.transmit() == .malformed(.unmapped), "an entry in two regions")
  }

  @Test("only the id of the last descriptor of a chain counts, and any id will do")
  func ids() throws {
    for id in [0, 5, 6, 0x7fff, 0xffff] as [UInt16] {
      let rig = try PackedChainTests.rig()
      let start = rig.packed.availPlace
      rig.packed.pokeChain(
        [.init(0, 8, id: 1, flags: next), .init(0, 8, id: 2, flags: next), .init(0, 8, id: id)],
        at: start)
      #expect(rig.skip(2) == [DescriptorChain(id: id, slots: 3)])
      rig.giveBack(1)
      #expect(rig.packed.descriptor(start.index).id == id)
    }
  }

  @Test("a packed chain without end stops the queue, whatever the driver does then")
  func endless() throws {
    for flags in [next, next | write] as [UInt16] {
      for isSkipped in [false, true] {
        let rig = try PackedChainTests.rig()
        let loop = [RawPackedDescriptor](repeating: .init(0, 8, flags: flags), count: 6)
        rig.packed.pokeChain(loop, at: rig.packed.availPlace)
        let before = rig.device.base
        if isSkipped {
          #expect(rig.skip(1) == [])
        } else {
          #expect(rig.transmit() == nil)
        }
        #expect(rig.device.fault == .chainWithoutEnd)
        rig.packed.pokeChain([.init(0, 8)], at: rig.packed.availPlace)
        #expect(rig.transmit() == nil)
        #expect(rig.skip(1) == [])
        let waiting = rig.device.availableChains(64)
        #expect(waiting == 0)
        let again = rig.device.enableKicks()
        #expect(!again)
        #expect(rig.device.base == before)
      }
    }
  }

  @Test("chains before one without end can still be returned")
  func beforeEndless() throws {
    let rig = try PackedChainTests.rig(start: 0)
    let place = rig.packed.pokeChain([.init(0, 8, id: 3)], at: rig.packed.availPlace)
    rig.packed.pokeChain(
      [RawPackedDescriptor](repeating: .init(0, 8, flags: next), count: 5), at: place)
    rig.packed.pokeDescriptor(0, .init(0, 8, id: 3, flags: next | DescriptorFlags.avail))
    #expect(rig.skip(2) == [], "the loop runs over the first")
    let other = try PackedChainTests.rig(start: 0)
    let second = other.packed.pokeChain([.init(0, 8, id: 3)], at: other.packed.availPlace)
    var position = other.device.position
    let first = other.device.skip(at: &position)
    #expect(first == .chain(DescriptorChain(id: 3, slots: 1)))
    other.packed.pokeChain(
      [RawPackedDescriptor](repeating: .init(0, 8, flags: next), count: 6), at: second)
    let none = other.device.skip(at: &position)
    #expect(none == .none)
    other.device.push(DescriptorChain(id: 3, slots: 1), length: 0)
    other.device.take(to: position)
    other.device.publish()
    #expect(other.device.fault == .chainWithoutEnd)
    #expect(other.packed.descriptor(0).flags == other.packed.availPlace.returned)
  }

  @Test("of several returned chains the first becomes visible last")
  func firstLast() throws {
    let rig = try PackedChainTests.rig()
    let buffer = DriverQueue.Buffer(rig.ram.allocate(8), 8)
    for _ in 0..<4 { rig.packed.add([buffer]) }
    rig.packed.publish()
    let start = rig.packed.usedPlace
    var position = rig.device.position
    for _ in 0..<4 {
      guard case .chain(let chain) = rig.device.skip(at: &position) else { break }
      rig.device.push(chain, length: 0)
    }
    rig.device.take(to: position)
    #expect(rig.packed.descriptor(start.index).flags == start.offered)
    #expect(try rig.packed.nextUsed() == nil)
    rig.device.publish()
    #expect(try rig.packed.allUsed().count == 4)
    // Nothing was returned since: nothing is written.
    rig.device.publish()
    #expect(try rig.packed.allUsed().isEmpty)
  }

  @Test("a packed ring of any size to 32768 runs, and other sizes are refused")
  func sizes() throws {
    let ram = try GuestRAM(bytes: 2 << 20)
    let config = PackedDriverQueue(in: ram, size: 32768).config(memory: try ram.memory())
    for (size, works) in [
      (1, true), (3, true), (1000, true), (32767, true), (32768, true), (0, false),
      (-1, false), (32769, false), (Int.max, false), (Int.min, false),
    ] {
      var config = config
      config.size = size
      config.base = .start(for: .ringPacked)
      #expect((fault(config) == nil) == works, "\(size)")
    }
  }

  private func fault(_ config: VirtqueueConfig) -> QueueFault? {
    do throws(QueueFault) {
      let queue = try AnyVirtqueue(activating: config)
      _ = queue.base
      return nil
    } catch { return error }
  }

  @Test("a packed ring out of place is refused")
  func places() throws {
    let ram = try GuestRAM()
    let good = PackedDriverQueue(in: ram, size: 10).config(memory: try ram.memory())
    #expect(fault(good) == nil)
    let end = ram.descriptions[0].frontEnd.value + ram.descriptions[0].size
    for (path, alignment, bytes) in [
      (\VirtqueueConfig.descriptorTable, 16, 160), (\VirtqueueConfig.availRing, 4, 4),
      (\VirtqueueConfig.usedRing, 4, 4),
    ] as [(WritableKeyPath<VirtqueueConfig, FrontEndAddress>, UInt64, UInt64)] {
      for offset in 1..<alignment {
        var config = good
        config[keyPath: path].value += offset
        #expect(fault(config) == .misalignedRing)
      }
      for address in [0, 4096, end, .max - 15] as [UInt64] {
        var config = good
        config[keyPath: path] = FrontEndAddress(address)
        #expect(fault(config) == .ringNotInMemory)
      }
      var config = good
      config[keyPath: path] = FrontEndAddress(end - bytes)
      #expect(fault(config) == nil)
    }
    for base in [10, 0x800a, 0x7fff, 0xffff, 0x000a_8000, 0xffff_8000] as [UInt32] {
      var config = good
      config.base = VringBase(rawValue: base)
      #expect(fault(config) == .baseOutOfRange, "\(base)")
    }
  }

  @Test("a packed ring goes on where its base says, index and wrap counter, as both halves or one")
  func resumes() throws {
    for (start, isWhole) in [(0, true), (3, false), (4, true), (7, false), (9, true)] {
      let rig = try Rig(size: 5, features: format, start: UInt16(start))
      let at = rig.ram.allocate(16)
      for round in 0..<12 {
        rig.packed.add([.init(at, 1)] + (round % 3 == 0 ? [.init(at, 1)] : []))
        rig.packed.publish()
        #expect(rig.transmit() != nil)
        #expect(try rig.packed.nextUsed() != nil)
        let base = rig.device.base
        #expect(base.rawValue & 0xffff == UInt32(rig.packed.usedPlace.position.value))
        #expect(base.rawValue >> 16 == UInt32(rig.packed.usedPlace.position.value))
        var config = rig.packed.config(memory: rig.memory)
        // Some front-ends know of the lower half only.
        config.base = isWhole ? base : VringBase(rawValue: base.rawValue & 0xffff)
        rig.device = try AnyVirtqueue(activating: config)
      }
    }
  }
}
