import Glibc
import GuestDriver
import GuestMemory
import HostPort
import Testing
import VirtioNet
import Virtqueue

@Suite("Guest receive")
struct ReceiveTests {
  @Test(
    "a packet lies over as many mergeable buffers as it needs, and num_buffers says so",
    arguments: [[], .inOrder, .ringPacked, [.ringPacked, .inOrder]] as [VirtioFeatures])
  func mergeable(format: VirtioFeatures) throws {
    var fixture = try ReceiveFixture(
      features: format.union([.version1, .mrgRxbuf]), size: 64, start: 50)
    for _ in 0..<64 { try fixture.offer([128]) }
    // 116 bytes fit behind the header in the first buffer, 128 in each other.
    let lengths = [60, 116, 117, 244, 245, 1514]
    fixture.port[0].inject(lengths.map { frame($0) })
    fixture.pump()
    let packets = try fixture.collect()
    #expect(packets.map(\.frame) == lengths.map { frame($0) })
    #expect(packets.map(\.bufferCount) == [1, 1, 2, 2, 3, 12])
    #expect(fixture.port[0].isComplete)
  }

  @Test(
    "header and packet may be cut anywhere over the descriptors of a chain",
    arguments: [
      ([] as VirtioFeatures, 10), ([.version1] as VirtioFeatures, 12),
      ([.mrgRxbuf] as VirtioFeatures, 12), ([.version1, .mrgRxbuf] as VirtioFeatures, 12),
      ([.version1, .mrgRxbuf, .ringPacked] as VirtioFeatures, 12),
    ])
  func layouts(features: VirtioFeatures, headerLength: Int) throws {
    for layout in ChainLayout.all(headerLength: headerLength, payloadLength: 1514, ringSize: 2048)
    where layout.exists(with: features) {
      var fixture = try ReceiveFixture(
        features: features.union(.ringIndirectDesc), size: 2048,
        ram: try .withBorders(count: 32, regionBytes: 65536))
      try fixture.offer(layout.lengths, direct: layout.direct)
      fixture.port[0].inject([frame(1514)])
      fixture.pump()
      let packets = try fixture.collect()
      #expect(packets.map(\.frame) == [frame(1514)], "\(layout)")
      #expect(packets.first?.bufferCount == 1, "\(layout)")
    }
  }

  @Test("without MRG_RXBUF a packet that one chain cannot take is dropped and the chain stays")
  func notMergeable() throws {
    var fixture = try ReceiveFixture(features: [.version1])
    for _ in 0..<4 { try fixture.offer([12, 100]) }
    fixture.port[0].inject([frame(101), frame(100), frame(60)])
    fixture.pump()
    let packets = try fixture.collect()
    #expect(packets.map(\.frame) == [frame(100), frame(60)])
    #expect(packets.map(\.bufferCount) == [1, 1])
    #expect(fixture.counters.dropped(.tooLongForGuest) == 1)
    #expect(fixture.port[0].isComplete)
  }

  @Test("a packet larger than the whole ring is dropped, not waited for")
  func largerThanRing() throws {
    var fixture = try ReceiveFixture(size: 4)
    for _ in 0..<4 { try fixture.offer([100]) }
    fixture.port[0].inject([frame(1000), frame(60)])
    fixture.pump()
    #expect(try fixture.collect().map(\.frame) == [frame(60)])
    #expect(fixture.counters.dropped(.tooLongForGuest) == 1)
  }

  @Test("without guest buffers one batch waits; nothing of it is lost or taken twice")
  func stall() throws {
    var fixture = try ReceiveFixture()
    let frames = (0..<10).map { frame(60 + $0) }
    fixture.port[0].inject(frames)
    for _ in 0..<3 { try fixture.offer([1600]) }
    fixture.pump()
    #expect(fixture.feed.isStalled)
    #expect(fixture.feed.heldCount == 7)
    #expect(fixture.port[0].framesInDataPath == 7)
    var got = try fixture.collect().map(\.frame)
    for _ in 0..<7 {
      try fixture.offer([1600])
      fixture.pump()
      got += try fixture.collect().map(\.frame)
    }
    #expect(got == frames)
    #expect(!fixture.feed.isStalled)
    #expect(fixture.port[0].isComplete)
  }

  @Test("too few mergeable buffers are not touched before the packet fits")
  func partial() throws {
    var fixture = try ReceiveFixture()
    try fixture.offer([100])
    fixture.port[0].inject([frame(250)])
    fixture.pump()
    #expect(fixture.feed.isStalled)
    #expect(fixture.path.seenChains == QueuePosition(1))
    #expect(try fixture.driver.allUsed().isEmpty)
    try fixture.offer([100])
    try fixture.offer([100])
    fixture.pump()
    #expect(try fixture.collect().map(\.bufferCount) == [3])
  }

  @Test("a malformed buffer goes back empty and the packet takes the next")
  func malformed() throws {
    var fixture = try ReceiveFixture()
    fixture.driver.add([.init(fixture.ram.allocate(100, alignment: 1), 100, writable: false)])
    fixture.driver.publish()
    try fixture.offer([1600])
    fixture.port[0].inject([frame(60)])
    _ = fixture.feed.turn()
    fixture.pump()
    #expect(try fixture.driver.nextUsed()?.length == 0)
    #expect(try fixture.collect().map(\.frame) == [frame(60)])
    #expect(fixture.counters.malformedBuffers.current == 1)
  }

  @Test(
    "a buffer too small for a header goes back empty, else it would be in front for ever",
    arguments: [[.version1], [.version1, .mrgRxbuf]] as [VirtioFeatures])
  func smallerThanHeader(features: VirtioFeatures) throws {
    var fixture = try ReceiveFixture(features: features, size: 4)
    for _ in 0..<4 { try fixture.offer([11]) }
    fixture.port[0].inject([frame(60)])
    for _ in 0..<4 { _ = fixture.feed.turn() }
    #expect(try fixture.driver.allUsed().map(\.length) == [0, 0, 0, 0])
    try fixture.offer([1600])
    fixture.pump()
    #expect(try fixture.collect().map(\.frame) == [frame(60)])
    #expect(fixture.counters.malformedBuffers.current == 4)
    #expect(fixture.counters.dropped(.tooLongForGuest) == 0)
  }

  @Test("a guest that gives buffers slowly, but gives them, loses no waiting frame")
  func slowGuest() throws {
    var fixture = try ReceiveFixture()
    fixture.port[0].inject((0..<100).map { _ in frame(60) })
    fixture.pump()
    // Longer than the feed's patience in all, and far from it each time.
    for _ in 0..<4 {
      ThreadTime.sleep(milliseconds: 30)
      try fixture.offer([1600])
      #expect(fixture.feed.turn() == 1)
      fixture.feed.shedIfDue()
    }
    #expect(fixture.counters.dropped(.noGuestBuffers) == 0)
    #expect(try fixture.collect().count == 4)
  }

  @Test("random sizes of packets and buffers, across the wrap of the index")
  func random() throws {
    var generator = SeededGenerator(seed: 7)
    var fixture = try ReceiveFixture(size: 128, start: 65400)
    // More places than chains can be outstanding.
    let places = fixture.ram.allocate(256 * 1024, alignment: 64)
    var next = 0
    var sent: UInt64 = 0
    var seen: UInt64 = 0
    for round in 0..<600 {
      while fixture.driver.outstanding < 128 {
        let length = Int.random(in: 12...700, using: &generator)
        try fixture.offer(length, at: GuestAddress(places.value + UInt64(next * 1024)))
        next = (next + 1) % 256
      }
      for _ in 0..<Int.random(in: 1...8, using: &generator) {
        let length = Int.random(in: 14...1514, using: &generator)
        fixture.port[0].inject([frame(length, seed: sent)])
        sent += 1
      }
      fixture.pump()
      for packet in try fixture.collect() {
        guard packet.frame == frame(packet.frame.count, seed: seen), packet.frame.count >= 14 else {
          Issue.record("round \(round): packet \(seen) is not what was sent")
          return
        }
        seen += 1
      }
    }
    #expect(seen + UInt64(fixture.feed.heldCount + fixture.port[0].waitingCount) == sent)
    #expect(fixture.port.problems.isEmpty)
  }
}
