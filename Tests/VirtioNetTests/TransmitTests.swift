import GuestDriver
import GuestMemory
import HostPort
import Testing
import VirtioNet
import Virtqueue

@Suite("Guest transmit")
struct TransmitTests {
  @Test(
    "every descriptor layout delivers the same bytes, direct and indirect",
    arguments: [
      ([] as VirtioFeatures, 10), ([.version1] as VirtioFeatures, 12),
      ([.mrgRxbuf] as VirtioFeatures, 12), ([.version1, .ringPacked] as VirtioFeatures, 12),
    ])
  func layouts(features: VirtioFeatures, headerLength: Int) throws {
    for payload in [14, 60, 1514] {
      for layout in ChainLayout.all(
        headerLength: headerLength, payloadLength: payload, ringSize: 2048)
      where layout.exists(with: features) {
        let fixture = try TransmitFixture(
          features: features.union(.ringIndirectDesc), size: 2048,
          ram: try .withBorders(count: 32, regionBytes: 65536))
        let sent = frame(payload)
        fixture.offer(sent, as: layout)
        #expect(fixture.drain() == [sent], "\(layout), \(payload) bytes")
        #expect(try fixture.driver.allUsed().count == 1)
        #expect(fixture.port.problems.isEmpty)
      }
    }
  }

  @Test(
    "chains go back in the order they came, with length 0, across the wrap of the index",
    arguments: [[], .inOrder, .ringPacked, [.ringPacked, .inOrder]] as [VirtioFeatures])
  func order(features: VirtioFeatures) throws {
    let fixture = try TransmitFixture(
      features: features.union(.version1), size: 64,
      start: features.contains(.inOrder) ? 0 : 65500)
    var heads: [UInt16] = []
    var returned: [UInt16] = []
    for round in 0..<40 {
      for i in 0..<7 {
        let address = fixture.ram.allocate(100, alignment: 1)
        fixture.ram.write([UInt8](repeating: 0, count: 12) + frame(60 + i), at: address)
        heads.append(try #require(fixture.driver.add([.init(address, UInt32(72 + i))])))
      }
      fixture.driver.publish()
      #expect(fixture.drain().count == 7, "round \(round)")
      for element in try fixture.driver.allUsed() {
        #expect(element.length == 0)
        returned.append(element.head)
      }
    }
    #expect(returned == heads)
  }

  @Test("several hundred thousand packets keep their order and content")
  func manyPackets() throws {
    let fixture = try TransmitFixture(size: 128)
    let address = fixture.ram.allocate(128 * 128, alignment: 64)
    var sent: UInt64 = 0
    var seen: UInt64 = 0
    while sent < 300_000 {
      for slot in 0..<100 {
        let at = GuestAddress(address.value + UInt64(slot * 128))
        let pointer = unsafe fixture.ram.pointer(at, length: 84)
        unsafe (pointer + 12).storeBytes(of: sent, as: UInt64.self)
        fixture.driver.add([.init(at, 84)])
        sent += 1
      }
      fixture.driver.publish()
      for got in fixture.drain() {
        let number = got.prefix(8).reversed().reduce(UInt64(0)) { $0 << 8 | UInt64($1) }
        guard number == seen else {
          Issue.record("packet \(number) where \(seen) was due")
          return
        }
        seen += 1
      }
      #expect(try fixture.driver.allUsed().count == 100)
    }
    #expect(seen == sent)
    #expect(fixture.counters.packets.current == sent)
    #expect(fixture.port[0].isComplete)
  }

  @Test(
    "a malformed chain costs that chain only", arguments: [[], .ringPacked] as [VirtioFeatures])
  func malformed(format: VirtioFeatures) throws {
    let fixture = try TransmitFixture(features: format.union(.version1))
    let good = ChainLayout("whole", [12 + 60])
    fixture.offer(frame(60), as: good)
    fixture.driver.add([.init(GuestAddress(1 << 40), 100)])
    fixture.driver.add([.init(fixture.ram.allocate(100, alignment: 1), 100, writable: true)])
    fixture.driver.publish()
    fixture.offer(frame(61), as: ChainLayout("whole", [12 + 61]))
    #expect(fixture.drain() == [frame(60), frame(61)])
    #expect(try fixture.driver.allUsed().count == 4)
    #expect(fixture.counters.dropped(.malformedChain) == 2)
    #expect(fixture.path.queue.fault == nil)
  }

  @Test("a packet that is no frame, or too long, or wants an offload, is dropped and counted")
  func badPackets() throws {
    let fixture = try TransmitFixture()
    fixture.offerRaw([UInt8](repeating: 0, count: 11))
    fixture.offerRaw([UInt8](repeating: 0, count: 12 + 13))
    fixture.offerRaw([UInt8](repeating: 0, count: 12 + 2049))
    fixture.offerRaw([1] + [UInt8](repeating: 0, count: 100))
    fixture.offerRaw([0, 1] + [UInt8](repeating: 0, count: 100))
    fixture.offerRaw([UInt8](repeating: 0, count: 12) + frame(2048))
    #expect(fixture.drain() == [frame(2048)])
    #expect(try fixture.driver.allUsed().count == 6)
    #expect(fixture.counters.dropped(.tooShort) == 2)
    #expect(fixture.counters.dropped(.tooLong) == 1)
    #expect(fixture.counters.dropped(.badHeader) == 2)
    #expect(fixture.port[0].isComplete)
  }

  @Test(
    "without frames the guest waits, and nothing is lost",
    arguments: [[], .ringPacked] as [VirtioFeatures])
  func backPressure(format: VirtioFeatures) throws {
    var options = ScriptedPort.Options()
    options.transmitFrames = 8
    options.completesAtOnce = false
    let fixture = try TransmitFixture(features: format.union(.version1), port: options)
    for i in 0..<20 { fixture.offer(frame(60 + i), as: ChainLayout("whole", [72 + i])) }
    var got = fixture.drain()
    #expect(got.count == 8)
    #expect(fixture.path.isStarved)
    #expect(try fixture.driver.allUsed().count == 8)
    while got.count < 20 {
      fixture.port[0].complete(3)
      got += fixture.drain()
    }
    #expect(got == (0..<20).map { frame(60 + $0) })
    fixture.port[0].complete()
    #expect(fixture.drain().isEmpty)
    #expect(!fixture.path.isStarved)
    #expect(fixture.port[0].isComplete)
  }

  @Test("a disabled ring discards and returns", arguments: [[], .ringPacked] as [VirtioFeatures])
  func disabled(format: VirtioFeatures) throws {
    let fixture = try TransmitFixture(features: format.union(.version1), isEnabled: false)
    for _ in 0..<5 { fixture.offer(frame(60), as: ChainLayout("whole", [72])) }
    #expect(fixture.drain().isEmpty)
    #expect(try fixture.driver.allUsed().count == 5)
    #expect(fixture.counters.dropped(.ringDisabled) == 5)
  }

  @Test("an impossible ring stops the queue; heads taken before are returned")
  func impossible() throws {
    let fixture = try TransmitFixture()
    fixture.offer(frame(60), as: ChainLayout("whole", [72]))
    fixture.split.pokeAvailEntry(1, 256)
    fixture.split.pokeAvailIndex(2)
    #expect(fixture.drain() == [frame(60)])
    #expect(fixture.path.queue.fault == .headOutOfRange)
    #expect(fixture.path.queue.base == VringBase(split: 1))
    #expect(fixture.split.publishedUsedIndex == 1)
    #expect(fixture.path.run() == 0)
    #expect(fixture.port[0].isComplete)
  }
}
