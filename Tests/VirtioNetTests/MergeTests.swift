// Received packets that become one.
import GuestDriver
import GuestMemory
import Testing
import VirtioNet
import Virtqueue

@Suite("Received packets that become one")
struct MergeTests {
  /// How a driver offers its buffers.
  struct Layout: CustomTestStringConvertible {
    var features: VirtioFeatures = []
    /// Bytes of each descriptor of a chain.
    var chain = [1536]
    /// Descriptors that are not in an indirect table.
    var direct: Int?
    var testDescription: String { "\(features.namesOfBits) \(chain.count) of \(chain[0])" }

    static let large = [12] + [Int](repeating: 4096, count: 16) + [64]
    static let all = [
      Layout(), Layout(chain: [200]), Layout(features: .ringPacked),
      Layout(features: .ringPacked, chain: [100, 1436], direct: 0),
      Layout(features: .mrgRxbuf, chain: large),
      Layout(features: .mrgRxbuf, chain: large, direct: 0),
      Layout(features: [.mrgRxbuf, .ringPacked], chain: large, direct: 0),
    ]

    /// `mrgRxbuf` among the features means that the driver does not have it.
    func fixture(start: UInt16 = 0) throws -> ReceiveFixture {
      try ReceiveFixture(
        features: VirtioFeatures.merging.symmetricDifference(features), size: 512,
        ram: GuestRAM(bytes: 64 << 20),
        start: start)
    }
  }

  #if DEBUG
    private static let seeds: UInt64 = 25
  #else
    private static let seeds: UInt64 = 1000
  #endif

  @Test(
    "a merged packet, cut again, gives the packets that came, and none is overtaken in its flow",
    arguments: Layout.all)
  func takenApart(layout: Layout) throws {
    var (merged, segments, packets) = (0, 0, 0)
    for seed in 0..<MergeTests.seeds {
      var wire = AlikePackets(
        seed: seed, kinds: seed % 5 == 4 ? WireFlow.Kind.allCases : [.allCases[Int(seed % 4)]],
        flowCount: [1, 1, 2, 3, 20][Int(seed / 5 % 5)])
      var fixture = try layout.fixture(start: 65500)
      for _ in 0..<3 {
        let most =
          layout.direct == nil ? 500 / layout.chain.count : layout.chain.count > 2 ? 64 : 200
        while fixture.driver.outstanding < most {
          try fixture.offer(layout.chain, direct: layout.direct)
        }
        let count = Int.random(in: 1...(layout.chain.count > 2 ? 16 : 64), using: &wire.generator)
        let came = (0..<count).map { _ in wire.next() }
        fixture.port[0].inject(came.map(\.frame))
        fixture.pump()
        var waiting = came.map { Optional($0) }
        var last = -1
        for (header, frame) in try fixture.collectWithHeaders() {
          packets += 1
          guard let first = match(header, frame, &waiting) else {
            Issue.record(
              "seed \(seed): a packet that did not come so: \(header) \(frame.prefix(100)); \(WireFlow.complaint(header, frame) ?? "")"
            )
            return
          }
          #expect(first.index > last, "seed \(seed): packets by their first segments")
          last = first.index
          if first.count > 1 { (merged, segments) = (merged + 1, segments + first.count) }
        }
        #expect(waiting.allSatisfy { $0 == nil }, "seed \(seed)")
        #expect(fixture.port[0].isComplete && fixture.feed.heldCount == 0)
      }
    }
    #expect(merged > 40 && segments > 3 * merged, "\(segments) in \(merged), \(packets) packets")
  }

  /// Finds what was delivered among what came and is still missed, and takes it out; in a flow, only
  /// what is next.  Nil: it is not there.
  private func match(
    _ header: [UInt8], _ frame: [UInt8], _ waiting: inout [(flow: Int, frame: [UInt8])?]
  ) -> (index: Int, count: Int)? {
    if header[1] == 0 {
      guard header[0] == 0 || header[0] == 2 && WireFlow.isIntact(frame),
        header[2..<10].allSatisfy({ $0 == 0 }),
        let index = waiting.firstIndex(where: { $0?.frame == frame }),
        waiting[..<index].allSatisfy({ $0?.flow != waiting[index]?.flow })
      else { return nil }
      waiting[index] = nil
      return (index, 1)
    }
    guard WireFlow.complaint(header, frame) == nil else { return nil }
    let pieces = WireFlow.cut(header, frame)
    let sameIdentification = WireFlow.cut(header, frame, step: 0)
    guard
      let first = waiting.firstIndex(where: {
        $0.map { WireFlow.trimmed($0.frame) == pieces[0] } ?? false
      }), let flow = waiting[first]?.flow
    else { return nil }
    let indices = waiting.indices.filter { waiting[$0]?.flow == flow }.prefix(pieces.count)
    let came = indices.compactMap { waiting[$0].map { WireFlow.trimmed($0.frame) } }
    let isUnfragmentable = frame[WireFlow.places(frame).network + 6] & 0x40 != 0
    guard indices.first == first, came == pieces || isUnfragmentable && came == sameIdentification,
      came.allSatisfy(WireFlow.isIntact)
    else { return nil }
    for index in indices { waiting[index] = nil }
    return (first, pieces.count)
  }

  /// What reaches the guest of these.
  private func deliver(
    _ frames: [[UInt8]], features: VirtioFeatures = .merging
  ) throws -> [(header: [UInt8], frame: [UInt8])] {
    var fixture = try ReceiveFixture(features: features)
    for _ in 0..<200 { try fixture.offer([1600]) }
    fixture.port[0].inject(frames)
    fixture.pump()
    return try fixture.collectWithHeaders()
  }

  @Test("what continues a flow is one packet, up to 64 KiB", arguments: WireFlow.Kind.allCases)
  func whole(kind: WireFlow.Kind) throws {
    var generator = SeededGenerator(seed: 1)
    for (count, size, last, expected) in [
      (2, 1, 1, 1), (10, 100, 3, 1), (44, 1400, 1400, 1), (64, 1400, 1400, 2), (64, 600, 17, 1),
    ] {
      var flow = WireFlow(kind, using: &generator)
      let frames = (0..<count).map { i in
        flow.next(
          random(i < count - 1 ? size : last, &generator), flags: i < count - 1 ? 0x10 : 0x18)
      }
      let packets = try deliver(frames)
      #expect(packets.count == expected, "\(count) of \(size)")
      #expect(packets.flatMap { WireFlow.cut($0.header, $0.frame) } == frames)
      #expect(packets.allSatisfy { WireFlow.complaint($0.header, $0.frame) == nil })
    }
  }

  @Test("only what the driver takes is merged", arguments: WireFlow.Kind.allCases)
  func wanted(kind: WireFlow.Kind) throws {
    var generator = SeededGenerator(seed: 2)
    var flow = WireFlow(kind, using: &generator)
    let frames = (0..<4).map { _ in flow.next(random(1000, &generator)) }
    let own: VirtioFeatures =
      switch kind {
      case .tcp4: .guestTSO4
      case .tcp6: .guestTSO6
      case .udp4: .guestUSO4
      case .udp6: .guestUSO6
      }
    #expect(try deliver(frames, features: [.version1, .mrgRxbuf, .guestCsum, own]).count == 1)
    for features in [VirtioFeatures.merging.subtracting(own), .merging.subtracting(.guestCsum)] {
      let packets = try deliver(frames, features: features)
      #expect(packets.map(\.frame) == frames)
      #expect(packets.allSatisfy { $0.header.prefix(10).allSatisfy { $0 == 0 } })
    }
  }

  @Test("whatever differs is not merged, and nothing behind it overtakes it")
  func differences() throws {
    typealias Change = (inout WireFlow) -> Void
    let any: [(String, Change)] = [
      (
        "gap",
        {
          $0.sequence &+= 1; $0.identification &+= 2
        }
      ),
      ("hop limit", { $0.hops -= 1 }),
      ("ECN", { $0.typeOfService ^= 1 }),
      ("source address", { $0.link[11] ^= 1 }),
      ("VLAN", { $0.link[15] ^= 1 }),
      (
        "flow label or identification",
        {
          $0.label[1] ^= 1; $0.identification &+= 5
        }
      ),
    ]
    let tcp: [(String, Change)] = [
      ("acknowledgement", { $0.acknowledgement[3] ^= 1 }),
      ("window", { $0.window[1] ^= 1 }),
      ("timestamp", { $0.options[7] &+= 1 }),
      ("options", { $0.options += [1, 1, 1, 1] }),
      ("older", { $0.sequence &-= 1 }),
    ]
    let ipv4: [(String, Change)] = [
      ("DF", { $0.isUnfragmentable.toggle() }),
      ("identification back", { $0.identification &-= 2 }),
    ]
    var generator = SeededGenerator(seed: 3)
    for kind in WireFlow.Kind.allCases {
      var changes = any + (kind.isTCP ? tcp : []) + (kind.isIPv4 ? ipv4 : [])
      if kind == .udp6 { changes.removeAll { $0.0 == "gap" } }
      for (what, change) in changes {
        var flow = WireFlow(kind, tags: 1, using: &generator)
        var frames = (0..<3).map { _ in flow.next(random(500, &generator)) }
        change(&flow)
        frames += (0..<3).map { _ in flow.next(random(500, &generator)) }
        let packets = try deliver(frames)
        #expect(packets.count == 2, "\(kind): \(what)")
        #expect(packets.flatMap { WireFlow.cut($0.header, $0.frame) } == frames, "\(kind): \(what)")
      }
    }
  }

  @Test("flags that mean more than data are never within a merged packet")
  func flags() throws {
    var generator = SeededGenerator(seed: 4)
    for kind in [.tcp4, .tcp6] as [WireFlow.Kind] {
      for (flag, expected) in [
        (0x01, [1, 0, 1]), (0x02, [1, 0, 1]), (0x04, [1, 0, 1]), (0x20, [1, 0, 1]),
        (0x40, [1, 0, 1]), (0x08, [1, 1]), (0x00, [1]),
      ] as [(UInt8, [UInt8])] {
        var flow = WireFlow(kind, using: &generator)
        let frames = (0..<7).map { i in
          flow.next(random(700, &generator), flags: i == 3 ? 0x10 | flag : 0x10)
        }
        let packets = try deliver(frames)
        #expect(packets.map { $0.header[0] & 1 } == expected, "\(kind), \(flag)")
        let cut = packets.flatMap {
          $0.header[1] == 0 ? [$0.frame] : WireFlow.cut($0.header, $0.frame)
        }
        #expect(cut == frames, "\(kind), \(flag)")
      }
    }
  }

  @Test("CWR begins a merged packet where the driver takes that, and is never within one")
  func congestion() throws {
    var generator = SeededGenerator(seed: 5)
    var flow = WireFlow(.tcp6, using: &generator)
    let frames = (0..<6).map { i in
      flow.next(random(800, &generator), flags: i == 3 ? 0x90 : 0x10)
    }
    let packets = try deliver(frames)
    #expect(packets.map { $0.header[1] } == [4, 0x84])
    #expect(packets.flatMap { WireFlow.cut($0.header, $0.frame) } == frames)
    let plain = try deliver(frames, features: .merging.subtracting(.guestECN))
    #expect(plain.map { $0.header[1] } == [4, 0, 4])
  }

  @Test("a segment of another size ends the packet: a shorter one in it, a longer one before it")
  func sizes() throws {
    var generator = SeededGenerator(seed: 6)
    for kind in WireFlow.Kind.allCases {
      for (third, expected) in [(499, [3, 3]), (501, [2, 1, 3]), (500, [6])] {
        var flow = WireFlow(kind, using: &generator)
        let frames = (0..<6).map { flow.next(random($0 == 2 ? third : 500, &generator)) }
        let packets = try deliver(frames)
        let counts = packets.map { $0.header[1] == 0 ? 1 : WireFlow.cut($0.header, $0.frame).count }
        // A longer one leads what is shorter: one more, which ends it.
        #expect(counts == (third == 501 ? [2, 2, 2] : expected), "\(kind), \(third)")
      }
    }
  }

  @Test("what was verified says so, and nothing else does")
  func verified() throws {
    var generator = SeededGenerator(seed: 7)
    for kind in WireFlow.Kind.allCases {
      var flow = WireFlow(kind, using: &generator)
      var frames = (0..<2).map { _ in flow.next(random(600, &generator)) }
      frames[1][frames[1].count - 1] ^= 1
      // The first was found right, the other wrong.
      #expect(try deliver(frames).map { $0.header[0] } == [2, 0], "\(kind)")
      #expect(try deliver([frames[1], frames[0]]).map { $0.header[0] } == [0, 0], "\(kind)")
      #expect(try deliver([frames[0]]).map { $0.header[0] } == [0], "\(kind): nobody looked")
    }
    // A local sender leaves the checksum to a network card that there is not.
    var flow = WireFlow(.tcp4, using: &generator)
    let frames = (0..<5).map { _ in
      var frame = flow.next(random(600, &generator))
      let field = flow.transportStart + 16
      let sum = OffloadPacket.fold(WireFlow.pseudoHeader(frame))
      frame.replaceSubrange(field..<field + 2, with: OffloadPacket.word(Int(sum)))
      return frame
    }
    let packets = try deliver(frames)
    #expect(packets.map(\.frame) == frames)
    #expect(packets.allSatisfy { $0.header[0] == 0 })
  }

  @Test("a packet in several frames is not merged, and not overtaken")
  func severalFrames() throws {
    var generator = SeededGenerator(seed: 8)
    var options = ScriptedPort.Options()
    options.framesPerPacket = 4
    options.mtu = 9000
    var flow = WireFlow(.tcp4, using: &generator)
    let frames = (0..<6).map { flow.next(random($0 == 3 ? 5000 : 1400, &generator)) }
    var fixture = try ReceiveFixture(features: .merging, port: options)
    for _ in 0..<100 { try fixture.offer([1600]) }
    fixture.port[0].inject(frames)
    fixture.pump()
    let packets = try fixture.collectWithHeaders()
    #expect(packets.map { $0.header[1] } == [1, 0, 1])
    #expect(packets[1].frame == frames[3])
    #expect(WireFlow.cut(packets[2].header, packets[2].frame) == Array(frames[4...]))
    #expect(fixture.port[0].isComplete)
    #expect(fixture.counters.merged.current == 2 && fixture.counters.mergedSegments.current == 5)
    #expect(fixture.counters.summary.contains("merged 2, merged_segments 5"))
  }

  @Test("many flows at once are merged each for itself")
  func manyFlows() throws {
    var generator = SeededGenerator(seed: 13)
    var flows = (0..<8).map { WireFlow(.tcp4, number: UInt8($0 + 1), using: &generator) }
    let frames = (0..<64).map { flows[$0 % 8].next(random(900, &generator)) }
    let packets = try deliver(frames)
    // Two flows may meet in a place of the table, and then neither is merged there.
    #expect(packets.count <= 24)
    #expect(packets.filter { $0.header[1] != 0 }.count >= 4)
  }

  @Test("packets that two random streams of bytes pass for are delivered as they are")
  func noise() throws {
    var generator = SeededGenerator(seed: 14)
    for _ in 0..<40 {
      let frames = (0..<64).map { _ in
        var frame = random(Int.random(in: 14...120, using: &generator), &generator)
        let types: [[UInt8]] = [[8, 0, 0x45], [0x86, 0xdd, 0x60], [0x81, 0], [0x88, 0xa8], []]
        let type = types.randomElement(using: &generator)!
        frame.replaceSubrange(12..<min(frame.count, 12 + type.count), with: type)
        if frame.count > 24 { frame[23] = [6, 17].randomElement(using: &generator)! }
        return frame
      }
      #expect(try deliver(frames).map(\.frame) == frames.map { $0 })
    }
  }
}
