// Large packets that leave uncut: what leaves, in which order, and when they are cut after all.
import GuestDriver
import HostPort
import Packet
import Testing
import VirtioNet
import Virtqueue

private let all: VirtioFeatures = [
  .version1, .ringIndirectDesc, .csum, .hostTSO4, .hostTSO6, .hostECN, .hostUSO,
]

@Suite("Packets that leave uncut")
struct UncutPacketTests {
  private static func fixture(
    _ lane: BulkLane? = BulkLane(leastSegments: 2, mtu: 2000), size: Int = 256
  ) throws -> TransmitFixture {
    var options = ScriptedPort.Options()
    options.transmitFrames = 600
    options.bulkLane = lane
    return try TransmitFixture(
      features: all, size: size, ram: GuestRAM(bytes: 64 << 20), port: options)
  }

  private static func packet(
    _ kind: OffloadPacket.Kind = .tcp4, cut: Bool = true, payload: Int = 5000,
    using generator: inout SeededGenerator
  ) -> OffloadPacket {
    while true {
      let packet = OffloadPacket(
        kind, cut: cut, payload: payload, segmentSize: 1000, using: &generator)
      if packet.isUsual { return packet }
    }
  }

  @Test(
    "headers are ours: no length, checksum or hint of the guest's leaves",
    arguments: OffloadPacket.Kind.allCases)
  func headers(kind: OffloadPacket.Kind) throws {
    var generator = SeededGenerator(seed: 21)
    let fixture = try UncutPacketTests.fixture()
    var offered = 0
    for _ in 0..<400 {
      let size = Int.random(in: 100...1460, using: &generator)
      let good = OffloadPacket(
        kind, cut: true, payload: Int.random(in: size + 1...60000, using: &generator),
        segmentSize: size, using: &generator)
      guard good.isUsual else { continue }
      offered += 2
      let start = Int(good.header[6]) | Int(good.header[7]) << 8
      let network = 14 + OffloadPacket.tagBytes(good.bytes)
      var rubbish = good
      rubbish.header.replaceSubrange(2..<4, with: [0xff, 0xff])
      // With CWR or without, whether the header has the ECN bit or not.
      rubbish.header[1] ^= kind.isTCP ? 0x80 : 0
      let lengths = kind.isIPv4 ? [network + 2, network + 10] : [network + 4]
      for place in lengths + [start + (kind.isTCP ? 16 : 6)] + (kind.isTCP ? [] : [start + 4]) {
        rubbish.bytes.replaceSubrange(place..<place + 2, with: [0x12, 0x34])
      }
      var expected = good.bytes
      if kind.isIPv4 {
        let sum = ~OffloadPacket.fold(OffloadPacket.sum(expected[network..<start]))
        expected.replaceSubrange(network + 10..<network + 12, with: OffloadPacket.word(Int(sum)))
      }
      for packet in [good, rubbish] {
        fixture.offer(
          packet, pieces: [1, 1, 2, 3, 17].randomElement(using: &generator)!, using: &generator)
        #expect(fixture.drain().isEmpty)
        let left = fixture.port[0].takeUncut().map(\.bytes)
        try #require(left.count == 1, "\(packet)")
        try #require(left[0] == good.header + expected, "\(packet)")
      }
      #expect(try fixture.driver.allUsed().count == 2)
    }
    #expect(offered > 20 && fixture.counters.packets.current == UInt64(offered))
    #expect(fixture.counters.segments.current == 0)
    #expect(fixture.port.problems.isEmpty && fixture.port[0].isComplete)
  }

  @Test("nothing overtakes anything, in a batch of both")
  func order() throws {
    var generator = SeededGenerator(seed: 22)
    let fixture = try UncutPacketTests.fixture()
    let kinds = (0..<200).map { _ in Int.random(in: 0...2, using: &generator) }
    var frames = 0
    var expected: [Int] = []
    for kind in kinds {
      switch kind {
      case 0:
        expected.append(frames)
        fixture.offer(UncutPacketTests.packet(using: &generator), using: &generator)
      case 1:
        frames += 1
        fixture.offer(
          UncutPacketTests.packet(cut: false, payload: 100, using: &generator), using: &generator)
      default:
        frames += 1
        fixture.offerRaw([UInt8](repeating: 0, count: 12) + frame(60))
      }
    }
    #expect(fixture.drain().count == frames)
    #expect(fixture.port[0].takeUncut().map(\.behind) == expected)
    #expect(fixture.counters.packets.current == UInt64(kinds.count))
    #expect(try fixture.driver.allUsed().count == kinds.count)
    #expect(fixture.port[0].isComplete)
  }

  @Test("a packet that the port cannot take now waits, and what is behind it too")
  func waits() throws {
    var generator = SeededGenerator(seed: 23)
    let fixture = try UncutPacketTests.fixture()
    fixture.port[0].setBulkOutcomes([.wait, .wait, .taken])
    fixture.offer(UncutPacketTests.packet(using: &generator), using: &generator)
    fixture.offer(
      UncutPacketTests.packet(cut: false, payload: 9, using: &generator), using: &generator)
    for _ in 0..<2 {
      #expect(fixture.path.run() == 0 && fixture.path.isStarved)
      _ = fixture.queue.flush()
      #expect(fixture.port[0].transmittedCount == 0)
      #expect(try fixture.driver.allUsed().isEmpty)
    }
    #expect(fixture.counters.packets.current == 0)
    #expect(fixture.drain().count == 1)
    #expect(fixture.port[0].takeUncut().map(\.behind) == [0])
    #expect(try fixture.driver.allUsed().count == 2)
    #expect(fixture.counters.packets.current == 2 && !fixture.path.isStarved)
  }

  @Test("what the port does not take, or must not get, is cut as without a lane")
  func cut() throws {
    var generator = SeededGenerator(seed: 24)
    let plain = try UncutPacketTests.fixture(nil)
    // The port says no to the first, and is not asked for the second of the same turn.
    let refusing = try UncutPacketTests.fixture()
    refusing.port[0].setBulkOutcomes([.cut])
    let packets = OffloadPacket.Kind.allCases.map {
      UncutPacketTests.packet($0, using: &generator)
    }
    for packet in packets {
      for fixture in [plain, refusing] { fixture.offer(packet, using: &generator) }
    }
    let expected = plain.drain()
    #expect(refusing.drain() == expected && expected.count == 20)
    #expect(refusing.port[0].takeUncut().isEmpty && refusing.counters.packets.current == 4)

    let small = UncutPacketTests.packet(payload: 2500, using: &generator)
    let huge = UncutPacketTests.packet(payload: 70000, using: &generator)
    let scattered = UncutPacketTests.packet(payload: 5000, using: &generator)
    for (packet, lane, pieces) in [
      (small, BulkLane(leastSegments: 4, mtu: 2000), 1), (small, BulkLane(mtu: 1000), 1),
      (huge, BulkLane(mtu: 2000), 1), (scattered, BulkLane(mtu: 2000), 1500),
    ] {
      let fixture = try UncutPacketTests.fixture(lane, size: 2048)
      fixture.offer(packet, pieces: pieces, using: &generator)
      plain.offer(packet, using: &generator)
      let expected = plain.drain()
      #expect(!expected.isEmpty && fixture.drain() == expected)
      #expect(fixture.port[0].takeUncut().isEmpty)
    }
  }

  @Test(
    "with other than the usual headers a packet is cut here", arguments: OffloadPacket.Kind.allCases
  )
  func unusual(kind: OffloadPacket.Kind) throws {
    var generator = SeededGenerator(seed: 26)
    let (plain, lane) = (try UncutPacketTests.fixture(nil), try UncutPacketTests.fixture())
    var offered = 0
    while offered < 20 {
      let packet = OffloadPacket(
        kind, cut: true, payload: 5000, segmentSize: 1000, using: &generator)
      if packet.isUsual { continue }
      for fixture in [plain, lane] { fixture.offer(packet, using: &generator) }
      let expected = plain.drain()
      #expect(expected.count == 5 && lane.drain() == expected)
      for fixture in [plain, lane] { _ = try fixture.driver.allUsed() }
      offered += 1
    }
    #expect(lane.port[0].takeUncut().isEmpty)
  }

  @Test("what is one segment, or too many, is not left to others")
  func limits() throws {
    var generator = SeededGenerator(seed: 25)
    let fixture = try UncutPacketTests.fixture()
    fixture.offer(UncutPacketTests.packet(payload: 1000, using: &generator), using: &generator)
    #expect(fixture.drain().count == 1)
    fixture.offer(
      OffloadPacket(.udp4, cut: true, payload: 60000, segmentSize: 1, using: &generator),
      using: &generator)
    #expect(fixture.drain().isEmpty)
    #expect(fixture.counters.dropped(.tooManySegments) == 1)
    #expect(fixture.port[0].takeUncut().isEmpty)
  }
}
