// What a split ring does with its in-flight region: its own, another back-end's, and nonsense.
import GuestDriver
import GuestMemory
import Linux
import SharedRing
import Testing
import Virtqueue

@Suite("The in-flight region of a split ring")
struct SplitInflightTests {
  let rig: Rig
  let region: InflightFixture

  init() throws {
    rig = try Rig(size: 8, start: 65533)
    region = try InflightFixture(entries: 8)
  }

  private func config() throws -> VirtqueueConfig {
    var config = rig.driver.config(memory: rig.memory)
    config.inflight = try region.area()
    return config
  }

  private func restart() throws { rig.device = try AnyVirtqueue(activating: config()) }

  private func fault() throws -> QueueFault? {
    let config = try config()
    do throws(QueueFault) {
      let queue = try AnyVirtqueue(activating: config)
      return queue.fault
    } catch { return error }
  }

  /// Offers chains; returns their heads.
  private func offer(_ count: Int) -> [UInt16] {
    let at = rig.ram.allocate(64)
    let heads = (0..<count).compactMap { _ in rig.driver.add([.init(at, 64)]) }
    rig.driver.publish()
    return heads
  }

  /// What a back-end that works out of order leaves: `taken` in its order of taking, of which
  /// `done` went back.
  private func leave(taken: [UInt16], done: [UInt16], updated: Bool = true) throws {
    var index = rig.driver.usedIndex
    region.version = 1
    region.descNum = 8
    region.usedIdx = index
    for (i, head) in taken.enumerated() {
      region.setEntry(Int(head), inflight: 1, counter: 1000 + UInt64(i))
    }
    let used = unsafe rig.ram.pointer(rig.driver.usedRing, length: 4 + 8 * 8)
    for head in done {
      unsafe used.storeRelaxed64(4 + 8 * (Int(index) & 7), UInt64(head))
      index &+= 1
      let entry = 16 + 16 * Int(head)
      region[word: entry] = 1 | UInt64(region.lastBatchHead) << 48
      region.lastBatchHead = head
    }
    unsafe used.release16(2, index)
    guard updated else { return }
    for head in done { region.setEntry(Int(head), inflight: 0) }
    region.usedIdx = index
  }

  @Test("a fresh region is made ready, and follows the used index")
  func fresh() throws {
    region.setEntry(3, inflight: 9, next: 9, counter: 9)
    try restart()
    #expect(region.version == 1 && region.descNum == 8 && region.usedIdx == 65533)
    #expect(region.inflight == [])
    for i in 1...10 {
      _ = offer(1)
      #expect(rig.transmit() != nil)
      #expect(region.usedIdx == 65533 &+ UInt16(i))
      #expect(try rig.driver.allUsed().count == 1)
    }
  }

  @Test("heads that another back-end left in flight go back once, in its order")
  func foreign() throws {
    let heads = offer(6)
    // Taken in ring order, two in the middle completed.
    try leave(taken: Array(heads[0..<5]), done: [heads[3], heads[1]])
    #expect(try rig.driver.allUsed().map(\.head) == [heads[3], heads[1]])
    try restart()
    #expect(region.inflight == [])
    #expect(
      try rig.driver.allUsed()
        == [heads[0], heads[2], heads[4]].map { .init(head: $0, length: 0) })
    #expect(region.usedIdx == 65533 &+ 5)
    // The sixth was never taken.
    #expect(rig.transmit() != nil)
    #expect(try rig.driver.allUsed().map(\.head) == [heads[5]])
    #expect(rig.driver.outstanding == 0)
  }

  @Test("the order is that of the counters, not that of the table")
  func order() throws {
    let heads = offer(4)
    // It took them from the ring before a restart of its own, and resubmitted in this order.
    try leave(taken: [heads[2], heads[0], heads[3]], done: [])
    try restart()
    #expect(try rig.driver.allUsed().map(\.head) == [heads[2], heads[0], heads[3]])
  }

  @Test("heads that are the next in the ring anyway are delivered and not returned empty")
  func inOrder() throws {
    let heads = offer(4)
    try leave(taken: Array(heads[0..<3]), done: [])
    try restart()
    #expect(region.inflight == [])
    #expect(try rig.driver.allUsed() == [])
    for head in heads {
      guard case .bytes(let bytes)? = rig.transmit() else {
        Issue.record("nothing offered")
        return
      }
      #expect(bytes.count == 64)
      #expect(try rig.driver.allUsed().map(\.head) == [head])
    }
    #expect(rig.transmit() == nil)
  }

  @Test("a batch that was published but not noted is not returned again")
  func halfNoted() throws {
    let heads = offer(5)
    try leave(taken: Array(heads[0..<4]), done: [heads[2], heads[0]], updated: false)
    #expect(region.inflight.count == 4)
    try restart()
    #expect(
      try rig.driver.allUsed().map(\.head) == [heads[2], heads[0], heads[1], heads[3]])
    #expect(rig.transmit() != nil)
    #expect(try rig.driver.allUsed().count == 1)
    #expect(rig.driver.outstanding == 0)
  }

  @Test("a region that cannot be of this ring stops the ring, and nothing else")
  func nonsense() throws {
    let heads = offer(2)
    // More in flight than was ever offered.
    try leave(taken: heads, done: [])
    region.setEntry(Int(heads[0] ^ 1) | 4, inflight: 1)
    #expect(try fault() == .badInflightRegion)

    // The list of the last batch leads out of the region.
    region.setEntry(Int(heads[0] ^ 1) | 4, inflight: 0)
    region.usedIdx = 65532
    region.lastBatchHead = 8
    #expect(try fault() == .badInflightRegion)
  }

  @Test("a ring that is larger than the regions is refused, one that has none runs")
  func tooSmall() throws {
    var config = rig.driver.config(memory: rig.memory)
    let small = try InflightFixture(entries: 4)
    config.inflight = try small.area()
    #expect(throws: QueueFault.noInflightRegion) { try AnyVirtqueue(activating: config).index }
    config.index = 1
    #expect(try AnyVirtqueue(activating: config).fault == nil)
    #expect(small.version == 0)
  }

  // Which heads are in flight is the front-end's word; the available ring may not name them any
  // more.
  @Test("whatever stands in the region, no more chains go back than the driver offered")
  func anything() throws {
    var generator = SeededGenerator(seed: 0x1f1)
    for _ in 0..<2000 {
      let start = UInt16.random(in: 0...65535, using: &generator)
      let rig = try Rig(GuestRAM(bytes: 1 << 16), size: 8, start: start)
      let at = rig.ram.allocate(64)
      for _ in 0..<Int.random(in: 0...8, using: &generator) { rig.driver.add([.init(at, 64)]) }
      rig.driver.publish()
      region.fill(with: generator.bytes(region.bytes))
      region[word: 0] = 0
      region.version = generator.once(in: 10) ? 0 : 1
      region.descNum = 8
      if generator.once(in: 2) { region.usedIdx = start }
      for i in 0..<8 where !generator.once(in: 3) { region.setEntry(i, inflight: 0, counter: 1) }
      var config = rig.driver.config(memory: rig.memory)
      config.inflight = try region.area()
      do throws(QueueFault) {
        rig.device = try AnyVirtqueue(activating: config)
      } catch {
        #expect(error == .badInflightRegion)
        continue
      }
      while rig.transmit() != nil {}
      #expect(
        Int(rig.driver.publishedUsedIndex &- start) == rig.driver.outstanding,
        "seed \(generator.seed)")
    }
  }
}

@Suite("The in-flight area")
struct InflightAreaTests {
  private func defect(
    size: UInt64? = nil, offset: UInt64 = 0, queues: Int = 2, entries: Int = 16,
    format: InflightFormat = .split, fileSize: Int? = nil, _ fill: [UInt8] = []
  ) throws -> InflightDefect? {
    let whole = format.areaBytes(queues: 2, entries: 16)
    let file = try OwnedDescriptor.sealedMemory(name: "area", length: fileSize ?? whole)
    let mapping = try Mapping(length: 4096, descriptor: file.raw, flags: 1)
    for (i, byte) in fill.enumerated() {
      unsafe mapping.base.storeBytes(of: byte, toByteOffset: i, as: UInt8.self)
    }
    do throws(InflightDefect) {
      _ = try InflightArea(
        file: file, offset: offset, size: size ?? UInt64(whole), queueCount: queues,
        entryCount: entries, mostQueues: 4, format: format)
      return nil
    } catch { return error }
  }

  @Test("an area of the wrong shape is refused with a line that says what is wrong")
  func shape() throws {
    #expect(try defect() == nil)
    #expect(try defect(format: .packed) == nil)
    #expect(try defect(queues: 0) == .queueCount(0, most: 4))
    #expect(try defect(queues: 5) == .queueCount(5, most: 4))
    #expect(try defect(entries: 0) == .entryCount(0))
    #expect(try defect(entries: 32769) == .entryCount(32769))
    #expect(try defect(size: 639) == .tooSmall(size: 639, needed: 640))
    #expect(try defect(queues: 3) == .tooSmall(size: 640, needed: 960))
    #expect(try defect(offset: 4) == .offset(4))
    #expect(try defect(offset: UInt64.max - 7) == .offset(UInt64.max - 7))
    #expect(
      try defect(offset: 8) == .beyondFile(size: 640, offset: 8, fileSize: 640))
    #expect(try defect(size: UInt64.max, offset: 8, fileSize: 4096) != nil)
    #expect(try defect(offset: 8, fileSize: 4096) == nil)

    let version2: [UInt8] = [0, 0, 0, 0, 0, 0, 0, 0, 2, 0, 16, 0]
    #expect(
      try defect(version2)
        == .header(queue: 0, version: 2, entries: 16, features: 0, expected: 16))
    let other: [UInt8] = [0, 0, 0, 0, 0, 0, 0, 0, 1, 0, 17, 0]
    #expect(
      try defect(other) == .header(queue: 0, version: 1, entries: 17, features: 0, expected: 16))
    let features: [UInt8] = [1, 0, 0, 0, 0, 0, 0, 0, 1, 0, 16, 0]
    #expect(
      try defect(features)
        == .header(queue: 0, version: 1, entries: 16, features: 1, expected: 16))
    #expect(
      InflightDefect.tooSmall(size: 1, needed: 2).description
        == "an in-flight area of 1 bytes; its queues need 2")
  }

  @Test("regions begin on multiples of 64 bytes")
  func layout() {
    #expect(InflightFormat.split.areaBytes(queues: 1, entries: 1) == 64)
    #expect(InflightFormat.split.areaBytes(queues: 2, entries: 256) == 2 * (64 + 4096))
    #expect(InflightFormat.packed.areaBytes(queues: 3, entries: 256) == 3 * (64 + 8192))
  }
}
