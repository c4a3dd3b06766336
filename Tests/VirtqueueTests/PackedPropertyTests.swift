// Random packed rings, valid and hostile, against the specification written plainly; and random
// traffic over both formats against a queue of packets.
import GuestDriver
import GuestMemory
import Linux
import Testing
import Virtqueue

@Suite("Random packed chains")
struct PackedPropertyTests {
  private func randomDescriptor(
    _ generator: inout SeededGenerator, _ ram: GuestRAM, writable: Bool
  ) -> RawPackedDescriptor {
    let region = ram.descriptions.randomElement(using: &generator)!
    var descriptor = RawPackedDescriptor(
      region.guest.value + UInt64.random(in: 0..<region.size, using: &generator),
      UInt32.random(in: 0...64, using: &generator),
      id: UInt16(truncatingIfNeeded: generator.next()), flags: writable ? DescriptorFlags.write : 0)
    if !generator.once(in: 3) { descriptor.flags |= DescriptorFlags.next }
    guard generator.once(in: 12) else { return descriptor }
    switch Int.random(in: 0..<6, using: &generator) {
    case 0: descriptor.address = generator.next()
    case 1: descriptor.length = UInt32(truncatingIfNeeded: generator.next())
    case 2: descriptor.flags ^= DescriptorFlags.write
    case 3: descriptor.flags ^= DescriptorFlags.indirect
    case 4: descriptor.flags = UInt16(truncatingIfNeeded: generator.next())
    default: descriptor.address = .max - UInt64.random(in: 0..<64, using: &generator)
    }
    return descriptor
  }

  @Test("a random packed chain gives what the specification says", arguments: [false, true])
  func againstModel(writable: Bool) throws {
    let seed: UInt64 = 0xacced + (writable ? 1 : 0)
    var generator = SeededGenerator(seed: seed)
    var seen: [String: Int] = [:]
    let size = 9
    let ram = try GuestRAM([(0x4000, 4096), (0x5000, 8192), (1 << 32, 8192)])
    let rig = try Rig(ram, size: size, features: Rig.features.union(.ringPacked), capacity: 4)
    let model = PackedChainModel(rig.packed, capacity: 4)
    let tableRoom = ram.allocate(16 * 8, alignment: 16)
    for round in 0..<4000 {
      let start = QueuePosition(
        UInt16.random(in: 0..<UInt16(size), using: &generator)
          | (generator.once(in: 2) ? 0x8000 : 0))
      var place = PackedDriverQueue.Place(
        index: Int(start.value & 0x7fff), wrap: start.value & 0x8000 != 0)
      rig.packed.pokeHistory(before: place)
      var config = rig.packed.config(memory: rig.memory)
      config.base = VringBase(packed: start, used: start)
      rig.device = try AnyVirtqueue(activating: config)
      for _ in 0..<size {
        var descriptor = randomDescriptor(&generator, ram, writable: writable)
        if !generator.once(in: 20) { descriptor.flags |= place.offered }
        rig.packed.pokeDescriptor(place.index, descriptor)
        place.advance(1, in: size)
      }
      if generator.once(in: 3) {
        let entries = Int.random(in: 1...8, using: &generator)
        ram.write(
          (0..<entries).flatMap { _ in
            randomDescriptor(&generator, ram, writable: writable).bytes
          }, at: tableRoom)
        let offered: UInt16 =
          start.value & 0x8000 != 0 ? DescriptorFlags.avail : DescriptorFlags.used
        rig.packed.pokeDescriptor(
          Int(start.value & 0x7fff),
          RawPackedDescriptor(
            tableRoom.value, UInt32(16 * entries), id: 5,
            flags: DescriptorFlags.indirect | offered))
      }
      let expected = model.walk(at: start, writable: writable)
      let outcome = rig.look(writable: writable)
      switch expected {
      case .none, .fault:
        seen["\(expected)", default: 0] += 1
        #expect(outcome == .none, "seed \(seed), round \(round)")
        #expect((rig.device.fault != nil) == (expected == .fault), "seed \(seed), round \(round)")
      case .malformed(let chain, let reason):
        seen["\(reason)", default: 0] += 1
        #expect(outcome == .malformed(chain, reason), "seed \(seed), round \(round)")
      case .runs(let chain, let runs):
        seen["valid", default: 0] += 1
        #expect(outcome == .chain(chain), "seed \(seed), round \(round)")
        if outcome != .chain(chain) { continue }
        if writable {
          #expect(rig.writable.byteCount == runs.reduce(0) { $0 + $1.length })
        } else {
          #expect(
            rig.copy(from: 0, length: rig.readable.byteCount)
              == runs.flatMap { ram.read(GuestAddress($0.address), count: $0.length) },
            "seed \(seed), round \(round)")
        }
      }
    }
    // A generator that never makes a valid chain, or never a certain defect, tests nothing.
    #expect(seen["valid", default: 0] > 500, "\(seen)")
    for reason in [
      "none", "fault", "wrongDirection", "unmapped", "badIndirectTable", "badIndirectFlags",
      "tooManyBuffers",
    ] { #expect(seen[reason, default: 0] > 5, "\(reason) of \(seen)") }
  }

  @Test(
    "random traffic, restarts included, arrives whole and in order in either format",
    arguments: [
      [], .ringEventIdx, .inOrder, .ringPacked, [.ringPacked, .ringEventIdx],
      [.ringPacked, .inOrder, .ringEventIdx],
    ] as [VirtioFeatures])
  func traffic(format: VirtioFeatures) throws {
    let features = format.union([.version1, .ringIndirectDesc])
    for seed in UInt64(1)...8 {
      var generator = SeededGenerator(seed: seed)
      let size =
        features.contains(.ringPacked)
        ? Int.random(in: 1...40, using: &generator)
        : 1 << Int.random(in: 0...5, using: &generator)
      let rig = try Rig(
        GuestRAM(bytes: 8 << 20), size: size, features: features,
        start: UInt16.random(in: 0...UInt16.max, using: &generator))
      // Chains on their way: what they hold, and their heads in order.
      var sent: [[UInt8]] = []
      var heads: [UInt16] = []
      for round in 0..<300 {
        for _ in 0..<Int.random(in: 0...size, using: &generator) {
          let packet = generator.bytes(Int.random(in: 1...40, using: &generator))
          let points = (0..<Int.random(in: 0...3, using: &generator)).map { _ in
            Int.random(in: 1...40, using: &generator)
          }
          let isIndirect = generator.once(in: 3)
          let layout = ChainLayout(
            "", ChainLayout.cut(packet.count, at: points), direct: isIndirect ? 0 : nil)
          guard layout.ringDescriptors <= rig.ring.freeDescriptors else { break }
          let buffers = layout.place(in: rig.ram)
          rig.ram.scatter(packet, over: buffers)
          heads.append(try #require(rig.ring.add(buffers, direct: layout.direct)))
          sent.append(packet)
        }
        rig.ring.publish()
        for _ in 0..<Int.random(in: 0...size, using: &generator) {
          guard let walked = rig.transmit() else { break }
          #expect(walked == .bytes(sent.removeFirst()), "seed \(seed), round \(round)")
        }
        if generator.once(in: 10) {
          var config = rig.ring.config(memory: rig.memory)
          config.base = rig.device.base
          rig.device = try AnyVirtqueue(activating: config)
        }
        for used in try rig.ring.allUsed() {
          #expect(used.head == heads.removeFirst(), "seed \(seed), round \(round)")
          #expect(used.length == 0)
        }
        #expect(heads.count == sent.count)
        if heads.count != sent.count { return }
      }
    }
  }

  @Test(
    "a driver that writes anything at any time costs at most the ring", .timeLimit(.minutes(1)),
    arguments: [Rig.features, Rig.features.union([.ringPacked, .ringEventIdx])])
  func hostile(features: VirtioFeatures) throws {
    let size = 8
    let ram = try GuestRAM(bytes: 65536)
    let memory = try ram.memory()
    let ring = ringDriver(in: ram, size: size, features: features)
    let config = ring.config(memory: memory)
    let stop = try EventDescriptor()
    // The ring is another thread's to scribble over, and ours between two verbs.
    let writer = try PinnedThread(name: "scribbler") {
      var generator = SeededGenerator(seed: 3)
      while !stop.drain() { for _ in 0..<2000 { scribble(ram, &generator) } }
    }
    var generator = SeededGenerator(seed: 4)
    let readable = DeviceReadableBuffers(capacity: 64)
    let writable = DeviceWritableBuffers(capacity: 64)
    var taken = 0
    var faults = 0
    for _ in 0..<4000 {
      var config = config
      config.base = .start(for: features)
      if let split = ring as? DriverQueue {
        split.publishedUsedIndex = 0
        split.pokeAvailIndex(4)
      }
      if let packed = ring as? PackedDriverQueue {
        packed.pokeHistory(before: PackedDriverQueue.Place(index: 0, wrap: true))
      }
      let queue: AnyVirtqueue
      do throws(QueueFault) {
        queue = try AnyVirtqueue(activating: config)
      } catch .impossibleBase {
        faults += 1
        continue
      }
      for turn in 0..<6 {
        for _ in 0..<8 { scribble(ram, &generator) }
        var position = queue.position
        writable.removeAll()
        let outcome =
          turn % 2 == 0
          ? queue.collect(at: &position, into: readable)
          : queue.append(at: &position, to: writable)
        switch outcome {
        case .chain(let chain), .malformed(let chain, _):
          #expect(chain.slots >= 1 && Int(chain.slots) <= size)
          queue.push(chain, length: 0)
          taken += 1
        case .none: break
        }
        queue.take(to: position)
        queue.publish()
        _ = queue.needsCall()
        _ = queue.enableKicks()
        queue.disableKicks()
      }
      if queue.fault != nil { faults += 1 }
    }
    stop.signal()
    writer.join()
    #expect(taken > 100)
    // A packed ring stops only for a chain through all of it, which chance seldom writes.
    if !features.contains(.ringPacked) { #expect(faults > 0) }
  }
}

/// Writes half of a packed descriptor, or small numbers, somewhere: indices, heads, addresses.
private func scribble(_ ram: GuestRAM, _ generator: inout SeededGenerator) {
  let word =
    generator.next()
    & (generator.once(in: 2) ? 0x8087_0007_0000_001f : 0x0007_0007_0007_0007)
  let address = GuestAddress(UInt64.random(in: 0..<64, using: &generator) * 8)
  unsafe ram.pointer(address, length: 8).storeBytes(of: word, as: UInt64.self)
}
