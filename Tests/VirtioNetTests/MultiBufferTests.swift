// Packets that lie in several frames of the port, in both directions.
import GuestDriver
import GuestMemory
import HostPort
import Testing
import VirtioNet
import Virtqueue

@Suite("Packets of several frames")
struct MultiBufferTests {
  /// Frames so small that ordinary sizes take several.
  private static func options(
    frameSize: Int = 512, framesPerPacket: Int = 4,
    _ change: (inout ScriptedPort.Options) -> Void = { _ in }
  ) -> ScriptedPort.Options {
    var options = ScriptedPort.Options()
    options.frameSize = frameSize
    options.framesPerPacket = framesPerPacket
    change(&options)
    return options
  }

  /// Around each border of a frame.
  private static let sizes = [60, 511, 512, 513, 1023, 1024, 1025, 1536, 1537, 2047, 2048]

  @Test("a packet in any layout goes into as many frames as it needs, and out in one piece")
  func transmitLayouts() throws {
    for size in MultiBufferTests.sizes {
      let layouts = ChainLayout.all(headerLength: 12, payloadLength: size, ringSize: 2048)
      for layout in layouts where layout.lengths.count < 600 {
        let fixture = try TransmitFixture(
          size: 2048, ram: try .withBorders(count: 32, regionBytes: 65536),
          port: MultiBufferTests.options())
        let sent = frame(size)
        fixture.offer(sent, as: layout)
        #expect(fixture.drain() == [sent], "\(layout), \(size) bytes")
        #expect(fixture.port.problems.isEmpty)
        #expect(fixture.counters.packets.current == 1)
        #expect(fixture.counters.bytes.current == UInt64(size))
      }
    }
  }

  @Test("a packet for more frames than the port takes is dropped, and its neighbours are not")
  func tooLong() throws {
    let fixture = try TransmitFixture(port: MultiBufferTests.options())
    for size in [100, 2049, 2048, 60000, 513] {
      fixture.offerRaw([UInt8](repeating: 0, count: 12) + frame(size))
    }
    #expect(fixture.drain() == [frame(100), frame(2048), frame(513)])
    #expect(fixture.counters.dropped(.tooLong) == 2)
    #expect(try fixture.driver.allUsed().count == 5)
    #expect(fixture.port[0].isComplete)
  }

  @Test("without frames for a whole packet its chain waits in the ring", arguments: [4, 5, 7, 9])
  func transmitBudget(frames: Int) throws {
    let fixture = try TransmitFixture(
      port: MultiBufferTests.options {
        $0.transmitFrames = frames
        $0.completesAtOnce = false
        $0.framesPerFlush = 3
      })
    let packets = (0..<40).map { frame($0 % 3 == 0 ? 100 : 1400 + $0, seed: UInt64($0)) }
    for packet in packets { fixture.offerRaw([UInt8](repeating: 0, count: 12) + packet) }
    var sent: [[UInt8]] = []
    var wasStarved = false
    for _ in 0..<1000 where sent.count < packets.count {
      _ = fixture.path.run()
      wasStarved = wasStarved || fixture.path.isStarved
      // Half packets are with the kernel between two flushes.
      _ = fixture.queue.flush()
      sent += fixture.port[0].takeTransmitted()
      fixture.port[0].complete(2)
    }
    #expect(sent == packets)
    #expect(wasStarved)
    _ = fixture.path.run()
    #expect(!fixture.path.isStarved)
    #expect(fixture.port[0].isComplete, "\(fixture.port.problems)")
  }

  @Test(
    "a packet in several frames lies in one chain, or in as many as it needs with MRG_RXBUF",
    arguments: [true, false])
  func receive(mergeable: Bool) throws {
    let features: VirtioFeatures = mergeable ? [.version1, .mrgRxbuf] : [.version1]
    for size in MultiBufferTests.sizes {
      var fixture = try ReceiveFixture(features: features, port: MultiBufferTests.options())
      if mergeable {
        for length in [12, 13, 500, 700, 1000] { try fixture.offer([length]) }
      } else {
        try fixture.offer([12, 1, 600, 1500])
      }
      fixture.port[0].inject([frame(size, seed: 9)])
      fixture.pump()
      #expect(try fixture.collect().map(\.frame) == [frame(size, seed: 9)])
      #expect(fixture.counters.packets.current == 1)
      #expect(fixture.port[0].isComplete)
    }
  }

  @Test("without buffers for a whole packet none of its frames is used up")
  func noBuffers() throws {
    var fixture = try ReceiveFixture(port: MultiBufferTests.options())
    try fixture.offer([700])
    fixture.port[0].inject([frame(100), frame(2048, seed: 2), frame(600, seed: 3)])
    fixture.pump()
    #expect(try fixture.collect().map(\.frame) == [frame(100)])
    #expect(fixture.feed.isStalled && fixture.feed.heldCount == 6)
    for _ in 0..<2 { try fixture.offer([700]) }
    fixture.pump()
    #expect(try fixture.collect().isEmpty)
    for _ in 0..<2 { try fixture.offer([700]) }
    fixture.pump()
    let packets = try fixture.collect()
    #expect(packets.map(\.frame) == [frame(2048, seed: 2), frame(600, seed: 3)])
    #expect(packets.map(\.bufferCount) == [3, 1])
    #expect(fixture.feed.heldCount == 0 && fixture.port.problems.isEmpty)
  }

  @Test("dropped packets are counted as packets, not as frames")
  func dropCounts() throws {
    var fixture = try ReceiveFixture(
      features: [.version1], port: MultiBufferTests.options())
    try fixture.offer([100])
    fixture.port[0].inject([frame(2000)])
    fixture.pump()
    #expect(fixture.counters.dropped(.tooLongForGuest) == 1)
    fixture.port[0].inject([frame(60), frame(2000), frame(1000)])
    fixture.pump()
    #expect(fixture.feed.heldCount == 6)
    fixture.feed.release()
    #expect(fixture.counters.dropped(.noGuest) == 2)
    #expect(fixture.port[0].isComplete)
  }

  @Test("packets of all sizes, in chains of all sizes, keep their order and content")
  func random() throws {
    var generator = SeededGenerator(seed: 11)
    var fixture = try ReceiveFixture(
      size: 128, start: 65400, port: MultiBufferTests.options(framesPerPacket: 8))
    let transmit = try TransmitFixture(port: MultiBufferTests.options(framesPerPacket: 8))
    var sent: UInt64 = 0
    var seen: UInt64 = 0
    var places = 0
    let memory = fixture.ram.allocate(512 * 1024, alignment: 64)
    for _ in 0..<300 {
      while fixture.driver.outstanding < 128 {
        let length = Int.random(in: 12...900, using: &generator)
        try fixture.offer(length, at: GuestAddress(memory.value + UInt64(places % 512 * 1024)))
        places += 1
      }
      for _ in 0..<Int.random(in: 1...6, using: &generator) {
        let length = Int.random(in: 14...4096, using: &generator)
        fixture.port[0].inject([frame(length, seed: sent)])
        sent += 1
      }
      fixture.pump()
      for packet in try fixture.collect() {
        try #require(packet.frame == frame(packet.frame.count, seed: seen))
        transmit.offerRaw([UInt8](repeating: 0, count: 12) + packet.frame)
        try #require(transmit.drain() == [packet.frame])
        _ = try transmit.driver.allUsed()
        seen += 1
      }
    }
    #expect(seen > 500)
    #expect(fixture.port.problems.isEmpty && transmit.port.problems.isEmpty)
  }
}
