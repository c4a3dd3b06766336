// The process is killed at every store of a batch, and another one takes over.
//
// A batch is looked at, returned and published one machine instruction at a time.  For each state
// that the rings and the in-flight region went through, the same ring is made again, put into that
// state, and taken over by a new queue: every chain goes back exactly once, in order, with what it
// held, whatever the driver did between the two.
import GuestDriver
import GuestMemory
import Linux
import SharedRing
import Testing
import Virtqueue

@Suite("A process that is killed inside a batch", .serialized)
struct CrashTests {
  /// A ring that has run for a while, and a batch of chains that wait; the same for the same seed.
  private final class Scene {
    let rig: Rig
    let region: InflightFixture?
    var generator: SeededGenerator
    private(set) var batch = 1
    /// Contents of the chains that are not back yet, oldest first.
    var expected: [[UInt8]] = []

    init(seed: UInt64, tracked: Bool) throws {
      generator = SeededGenerator(seed: seed)
      let size = 1 << Int.random(in: 1...5, using: &generator)
      rig = try Rig(
        GuestRAM(bytes: 1 << 16), size: size,
        start: UInt16.random(in: 0...65535, using: &generator), shuffled: seed)
      region = tracked ? try InflightFixture(entries: size) : nil
      rig.device = try AnyVirtqueue(activating: config())
      for _ in 0..<Int.random(in: 0...3, using: &generator) {
        offer(most: size)
        while rig.transmit() != nil {}
        _ = try rig.driver.allUsed()
        expected = []
      }
      offer(most: size)
      batch = Int.random(in: 1...expected.count, using: &generator)
    }

    func config() throws -> VirtqueueConfig {
      var config = rig.driver.config(memory: rig.memory)
      config.inflight = try region?.area()
      return config
    }

    /// At least one chain, cut and tabled at random.
    func offer(most: Int) {
      for _ in 0..<Int.random(in: 1...most, using: &generator) {
        let bytes = generator.bytes(Int.random(in: 1...24, using: &generator))
        let at = rig.ram.allocate(bytes.count)
        rig.ram.write(bytes, at: at)
        var buffers: [DriverQueue.Buffer] = []
        var offset = 0
        while offset < bytes.count {
          let length =
            buffers.count == 2
            ? bytes.count - offset : Int.random(in: 1...bytes.count - offset, using: &generator)
          buffers.append(
            .init(GuestAddress(at.value + UInt64(offset)), UInt32(length)))
          offset += length
        }
        let direct =
          generator.once(in: 3) ? Int.random(in: 0..<buffers.count, using: &generator) : nil
        if rig.driver.add(buffers, direct: direct) == nil {
          // One descriptor is left for the first chain, whatever the size of the ring.
          guard expected.isEmpty, rig.driver.add([.init(at, UInt32(bytes.count))]) != nil
          else { break }
        }
        expected.append(bytes)
      }
      rig.driver.publish()
    }

    /// Returns heads as a back-end does that has not come to clear its marks.
    func publishUnnoted(_ heads: [UInt16]) {
      guard let region else { return }
      let used = unsafe rig.ram.pointer(rig.driver.usedRing, length: 4 + 8 * rig.driver.size)
      var index = rig.driver.publishedUsedIndex
      for head in heads {
        let slot = Int(index) & (rig.driver.size - 1)
        unsafe used.storeRelaxed64(4 + 8 * slot, UInt64(head))
        region[word: 16 + 16 * Int(head)] = 1 | UInt64(region.lastBatchHead) << 48
        region.lastBatchHead = head
        index &+= 1
      }
      unsafe used.release16(2, index)
    }

    var memory: WatchedMemory {
      let (ram, driver) = (rig.ram, rig.driver)
      func range(_ address: GuestAddress, _ length: Int) -> UnsafeMutableRawBufferPointer {
        unsafe UnsafeMutableRawBufferPointer(
          start: ram.pointer(address, length: length), count: length)
      }
      var ranges = unsafe [
        range(driver.descriptorTable, 16 * driver.size),
        range(driver.usedRing, 6 + 8 * driver.size),
      ]
      if let region {
        unsafe ranges.append(
          UnsafeMutableRawBufferPointer(start: region.base, count: region.bytes))
      }
      return unsafe WatchedMemory(ranges: ranges)
    }
  }

  /// Returns how many states there were.
  private func killEverywhere(seed: UInt64, tracked: Bool) throws -> Int {
    let traced = try Scene(seed: seed, tracked: tracked)
    let batch = traced.batch
    guard let states = traced.memory.states(during: { traced.rig.giveBack(batch) }) else {
      return 0
    }
    for (step, state) in states.enumerated() {
      let scene = try Scene(seed: seed, tracked: tracked)
      scene.memory.restore(state)
      var generator = SeededGenerator(seed: seed &+ UInt64(step))
      let where_ = "seed \(seed), state \(step) of \(states.count)"
      // The guest goes on.
      if generator.once(in: 2) {
        scene.expected.removeFirst(try scene.rig.driver.allUsed().count)
        if generator.once(in: 2) { scene.offer(most: 4) }
      }
      // Another process takes over; its front-end knows nothing of where the ring stood.
      scene.rig.device = try AnyVirtqueue(activating: scene.config())
      scene.expected.removeFirst(try scene.rig.driver.allUsed().count)
      for round in 0..<2 {
        for bytes in scene.expected {
          try #require(scene.rig.transmit() == .bytes(bytes), "\(where_)")
        }
        try #require(scene.rig.transmit() == nil, "\(where_)")
        try #require(
          try scene.rig.driver.allUsed().count == scene.expected.count, "\(where_)")
        try #require(scene.rig.driver.outstanding == 0, "\(where_)")
        scene.expected = []
        if round == 0 { scene.offer(most: 8) }
      }
    }
    return states.count
  }

  @Test(
    "a split ring that is cut short at any store is taken over without loss",
    arguments: [false, true])
  func split(tracked: Bool) throws {
    var states = 0
    for seed in 0..<UInt64(40) { states += try killEverywhere(seed: seed, tracked: tracked) }
    #if arch(x86_64)
      #expect(states > 40 * 4)
    #endif
  }

  @Test(
    "taking over what another back-end left may itself be cut short at any store",
    arguments: [false, true])
  func takeover(batchIsHalfNoted: Bool) throws {
    var states = 0
    for seed in 0..<UInt64(12) {
      func scene() throws -> (Scene, [UInt16]) {
        let scene = try Scene(seed: seed, tracked: true)
        var generator = SeededGenerator(seed: seed)
        let heads = scene.rig.skip(scene.expected.count).map(\.id)
        let region = scene.region!
        // Taken in the ring's order, resubmitted in another.
        let taken = heads.prefix(Int.random(in: 1...heads.count, using: &generator))
        for (i, head) in taken.shuffled(using: &generator).enumerated() {
          region.setEntry(Int(head), inflight: 1, next: 77, counter: UInt64(i))
        }
        if batchIsHalfNoted {
          // Published and still marked: the other one died before it was done with the batch.
          let count = Int.random(in: 1...taken.count, using: &generator)
          scene.publishUnnoted(Array(taken.shuffled(using: &generator).prefix(count)))
        }
        return (scene, heads)
      }
      let (traced, heads) = try scene()
      let config = try traced.config()
      let memory = traced.memory
      var faults = 0
      let seen = memory.states {
        do throws(QueueFault) {
          traced.rig.device = try AnyVirtqueue(activating: config)
        } catch { faults += 1 }
      }
      try #require(faults == 0)
      for state in seen ?? [] {
        let (scene, _) = try scene()
        scene.memory.restore(state)
        scene.rig.device = try AnyVirtqueue(activating: scene.config())
        while scene.rig.transmit() != nil {}
        let returned = try scene.rig.driver.allUsed().map(\.head)
        try #require(Set(returned) == Set(heads) && returned.count == heads.count, "seed \(seed)")
        try #require(scene.region!.inflight == [])
      }
      states += seen?.count ?? 0
    }
    #if arch(x86_64)
      #expect(states > 60)
    #endif
  }
}
