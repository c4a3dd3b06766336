// Taking heads, returning them, and rings that are impossible.
import GuestDriver
import GuestMemory
import Linux
import Testing
import Virtqueue

@Suite("A running ring")
struct RingTests {
  @Test("nothing offered is nothing available")
  func idle() throws {
    let rig = try Rig()
    let waiting = rig.device.availableChains(64)
    #expect(waiting == 0)
    #expect(rig.transmit() == nil)
  }

  @Test("what was added is seen when it is published, not before", arguments: Rig.formats)
  func publication(format: VirtioFeatures) throws {
    let rig = try Rig(features: format)
    rig.ring.add([.init(rig.ram.allocate(1), 1)])
    #expect(rig.transmit() == nil)
    rig.ring.publish()
    #expect(rig.transmit() != nil)
    #expect(rig.transmit() == nil)
  }

  @Test("chains are looked at ahead and taken later", arguments: Rig.formats)
  func lookAhead(format: VirtioFeatures) throws {
    let rig = try Rig(size: 8, features: format, start: 6, shuffled: 5)
    let at = rig.ram.allocate(8)
    let heads = (0..<5).compactMap { _ in rig.ring.add([.init(at, 1)]) }
    rig.ring.publish()
    let waiting = rig.device.availableChains(64)
    #expect(waiting == 5)
    #expect(rig.skip(8).map(\.id) == heads)
    #expect(rig.skip(8).map(\.id) == heads)
    rig.giveBack(2)
    #expect(rig.skip(8).map(\.id) == Array(heads[2...]))
    let left = rig.device.availableChains(64)
    #expect(left == 3)
  }

  @Test("the driver's index is read again only when fewer heads are known than wanted")
  func reload() throws {
    let rig = try Rig()
    let at = rig.ram.allocate(8)
    rig.ring.add([.init(at, 1)])
    rig.ring.publish()
    var waiting = rig.device.availableChains(1)
    #expect(waiting == 1)
    rig.ring.add([.init(at, 1)])
    rig.ring.publish()
    waiting = rig.device.availableChains(1)
    #expect(waiting == 1)
    waiting = rig.device.availableChains(2)
    #expect(waiting == 2)
  }

  @Test(
    "a full ring is available as a whole", arguments: [0, 40000, 65535] as [UInt16], Rig.formats)
  func full(start: UInt16, format: VirtioFeatures) throws {
    let rig = try Rig(size: 64, features: format, start: start)
    let at = rig.ram.allocate(8)
    while rig.ring.add([.init(at, 8)]) != nil {}
    rig.ring.publish()
    let waiting = rig.device.availableChains(64)
    #expect(waiting == 64)
    var count = 0
    while rig.transmit() != nil { count += 1 }
    #expect(count == 64)
    #expect(try rig.ring.allUsed().count == 64)
    #expect(rig.ring.freeDescriptors == 64)
  }

  @Test(
    "several hundred thousand packets go through a ring, in order, over the index's wrap",
    arguments: [
      (128, Rig.features), (128, Rig.features.union(.inOrder)),
      (128, Rig.features.union(.ringPacked)),
      (128, Rig.features.union([.ringPacked, .inOrder])), (100, Rig.features.union(.ringPacked)),
    ])
  func longRun(size: Int, features: VirtioFeatures) throws {
    let rig = try Rig(
      size: size, features: features, start: 60000,
      shuffled: features.contains(.inOrder) ? nil : 1)
    let at = (0..<128).map { _ in rig.ram.allocate(64) }
    var generator = SeededGenerator(seed: 99)
    var sent: UInt32 = 0
    var expected: [UInt16] = []
    var arrived: UInt32 = 0
    var wrong = 0
    let total: UInt32 = 300_000
    while arrived < total {
      // The driver adds some, the device takes some.
      for _ in 0..<Int.random(in: 1...60, using: &generator) {
        let buffer = at[Int(sent % 128)]
        guard sent < total, expected.count < size,
          let head = rig.ring.add([.init(buffer, 4)])
        else { break }
        unsafe rig.ram.pointer(buffer, length: 4).storeBytes(of: sent, as: UInt32.self)
        expected.append(head)
        sent += 1
      }
      rig.ring.publish()
      let waiting = rig.device.availableChains(60)
      let count = min(waiting, Int.random(in: 1...60, using: &generator))
      var position = rig.device.position
      for _ in 0..<count {
        guard case .chain(let chain) = rig.device.collect(at: &position, into: rig.readable) else {
          wrong += 1
          continue
        }
        var value: UInt32 = .max
        unsafe withUnsafeMutableBytes(of: &value) {
          unsafe rig.readable.copy(from: 0, length: 4, to: $0.baseAddress!)
        }
        if value != arrived { wrong += 1 }
        arrived += 1
        rig.device.push(chain, length: 0)
      }
      rig.device.take(to: position)
      rig.device.publish()
      while let used = try rig.ring.nextUsed() {
        if used.head != expected.first { wrong += 1 }
        expected.removeFirst()
      }
      if wrong > 0 { break }
    }
    #expect(wrong == 0)
    #expect(arrived == total)
    #expect(rig.ring.freeDescriptors == size)
    if features.contains(.ringPacked) {
      let (laps, index) = (60000 + Int(total)).quotientAndRemainder(dividingBy: size)
      let end = QueuePosition(UInt16(index) | (laps % 2 == 0 ? 0x8000 : 0))
      #expect(rig.device.base == VringBase(packed: end, used: end))
    } else {
      let end = UInt16(truncatingIfNeeded: 60000 + Int(total))
      #expect(rig.device.base == VringBase(split: end))
      #expect(rig.driver.publishedUsedIndex == end)
    }
  }
}

@Suite("Impossible rings")
struct FaultTests {
  @Test("an avail index further ahead than the ring is long stops the queue")
  func indexTooFar() throws {
    for (start, index) in [(0, 17), (0, 65535), (10, 9), (65530, 11)] as [(UInt16, UInt16)] {
      let rig = try Rig(size: 16, start: start)
      rig.driver.pokeAvailIndex(index)
      let waiting = rig.device.availableChains(1)
      #expect(waiting == 0)
      #expect(rig.device.fault == .availIndexTooFar)
    }
  }

  @Test("an avail index that goes back after heads were taken stops the queue")
  func indexGoesBack() throws {
    let rig = try Rig(size: 16)
    let at = rig.ram.allocate(1)
    for _ in 0..<3 { rig.ring.add([.init(at, 1)]) }
    rig.ring.publish()
    for _ in 0..<3 { #expect(rig.transmit() != nil) }
    rig.driver.pokeAvailIndex(1)
    #expect(rig.transmit() == nil)
    #expect(rig.device.fault == .availIndexTooFar)
  }

  @Test("a head beyond the table stops the queue", arguments: [16, 17, 32767, 65535] as [UInt16])
  func headOutOfRange(head: UInt16) throws {
    let rig = try Rig(size: 16)
    rig.driver.pokeAvailEntry(0, head)
    rig.driver.pokeAvailIndex(1)
    #expect(rig.transmit() == nil)
    #expect(rig.device.fault == .headOutOfRange)
  }

  @Test("a stopped queue offers nothing, whatever the driver does then")
  func staysStopped() throws {
    let rig = try Rig(size: 16)
    rig.driver.pokeAvailIndex(17)
    #expect(rig.transmit() == nil)
    rig.driver.pokeChain([RawDescriptor(rig.ram.allocate(1).value, 1)], at: 0)
    #expect(rig.transmit() == nil)
    let again = rig.device.enableKicks()
    #expect(!again)
    #expect(rig.device.base == VringBase(split: 0))
  }

  @Test("heads before a bad one can still be returned, and then nothing is offered")
  func headsBeforeTheFault() throws {
    let rig = try Rig(size: 16)
    rig.driver.pokeDescriptor(0, RawDescriptor(rig.ram.allocate(1).value, 1))
    for i in 0..<4 as Range<UInt16> { rig.driver.pokeAvailEntry(i, i < 3 ? 0 : 99) }
    rig.driver.pokeAvailIndex(4)
    let waiting = rig.device.availableChains(8)
    #expect(waiting == 4)
    #expect(rig.skip(4).map(\.id) == [0, 0, 0])
    rig.giveBack(4)
    #expect(rig.driver.publishedUsedIndex == 3)
    #expect(rig.device.fault == .headOutOfRange)
    for want in [1, 16, 65535] {
      let waiting = rig.device.availableChains(want)
      #expect(waiting == 0)
    }
  }

  @Test("the front-end hears of a fault by the err eventfd")
  func error() throws {
    let rig = try Rig()
    rig.device.signalError()
    #expect(rig.error.drain())
  }
}
