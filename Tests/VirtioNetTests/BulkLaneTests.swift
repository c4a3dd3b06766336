// The bulk lane of a real interface: the same bytes as without it, in the same order, and a guest that
// waits where the interface is slow.
import AFXDP
import Glibc
import GuestDriver
import HostPort
import RuntimeCounters
import Testing
import VirtioNet
import Virtqueue

private let all: VirtioFeatures = [
  .version1, .ringIndirectDesc, .csum, .hostTSO4, .hostTSO6, .hostECN, .hostUSO,
]

/// A transmit ring on the near end of a veth pair, and the far end.
private struct Scene {
  let fixture: TransmitFixture
  let far: any HostPortQueue

  init(_ pair: VethPair, memory: Int = 64 << 20) throws {
    far = try pair.farQueue()
    fixture = try TransmitFixture(
      features: all, ram: GuestRAM(bytes: memory), on: try XDPPort(pair.near).openQueue(0))
  }

  /// Runs the ring until `count` frames have arrived or nothing has for half a second.
  func collect(_ count: Int) -> [[UInt8]] {
    var frames: [[UInt8]] = []
    var idle = 0
    while idle < 500 && (frames.count < count || idle < 2) {
      let moved = fixture.path.run()
      let isPending = fixture.queue.flush()
      let hasCome = far.take(into: &frames)
      if moved == 0 && !hasCome {
        idle += 1
        usleep(isPending ? 200 : 1000)
      } else {
        idle = 0
      }
    }
    return frames
  }

  func counter(_ name: String) -> Int { fixture.queue.counter(name) ?? -1 }
}

@Suite(
  "The bulk lane", .serialized,
  .enabled(if: VethPair.isAvailable, "network namespaces need root"))
struct BulkLaneTests {
  @Test("what the kernel cuts of packets by the lane is what is cut without it, byte for byte")
  func sameBytes() throws {
    var generator = SeededGenerator(seed: 31)
    let packets = (0..<1200).map { i in
      let segment =
        [1448, 1460, 536, Int.random(in: 200...1460, using: &generator)].randomElement(
          using: &generator)!
      let kind = OffloadPacket.Kind.allCases[i % 4]
      // One in eight is a single frame, which follows by either lane.
      let cut = i % 8 != 7
      // A veth with XDP behind it holds 256 frames.
      let most = min(64000, 200 * segment)
      return OffloadPacket(
        kind, cut: cut, payload: cut ? Int.random(in: segment + 1...most, using: &generator) : 700,
        segmentSize: segment, using: &generator)
    }
    let bytes = packets.reduce(0) { $0 + $1.bytes.count + 1024 }
    let software = try TransmitFixture(offloads: all, memory: (8 << 20) + bytes)
    try VethPair.with("ethtool -K blk0 tx off") { pair in
      let scene = try Scene(pair, memory: (8 << 20) + bytes)
      for packet in packets {
        let pieces = [1, 1, 2, 3, 17].randomElement(using: &generator)!
        for fixture in [software, scene.fixture] {
          fixture.offer(packet, pieces: pieces, using: &generator)
        }
        let expected = software.drain()
        let got = scene.collect(expected.count)
        try #require(got == expected, "\(packet)")
        for fixture in [software, scene.fixture] { _ = try fixture.driver.allUsed() }
      }
      let refused = scene.counter("bulk_refused")
      let large = packets.count { packet in
        let size = Int(packet.header[4]) | Int(packet.header[5]) << 8
        let headers = Int(packet.header[2]) | Int(packet.header[3]) << 8
        return size > 0 && packet.isUsual && packet.bytes.count - headers > 3 * size
      }
      #expect(scene.counter("bulk_packets") + refused == large && large > packets.count / 8)
      #expect(refused * 100 <= packets.count, "the kernel takes nearly every packet")
      #expect(scene.counter("bulk_busy") == 0)
      #expect(scene.counter("device_refused") == 0)
    }
  }

  @Test(
    "large packets and the frames behind them retain, release and allocate nothing",
    .enabled(if: runtime_counters_optimised()))
  func runtimeCosts() throws {
    try VethPair.with(
      segmentsTCP: true, "tc qdisc add dev blk0 root tbf rate 300mbit burst 70kb limit 200kb"
    ) { pair in
      let scene = try Scene(pair)
      var generator = SeededGenerator(seed: 34)
      var stream = Stream()
      for round in 0..<30 {
        for _ in 0..<3 {
          scene.fixture.offer(stream.next(30000, segmentSize: 1400), pieces: 5, using: &generator)
          scene.fixture.offer(stream.next(300), using: &generator)
        }
        runtime_counters_start()
        for _ in 0..<10 {
          _ = scene.fixture.path.run()
          _ = scene.fixture.queue.flush()
        }
        let counts = runtime_counters_stop()
        #expect(counts.retains == 0 && counts.releases == 0, "round \(round): \(counts)")
        #expect(counts.objects == 0 && counts.mallocs == 0 && counts.accesses == 0, "\(counts)")
        // 22 segments each, and the frames.
        #expect(scene.collect(69).count == 69)
        _ = try scene.fixture.driver.allUsed()
      }
      #expect(scene.counter("bulk_packets") == 90 && scene.counter("bulk_frames") > 20)
    }
  }

  /// One TCP stream in single frames and in packets to be cut, as a guest offers it.
  private struct Stream {
    var sequence: UInt32 = 0
    var model: OffloadPacket

    init() {
      var generator = SeededGenerator(seed: 32)
      repeat {
        model = OffloadPacket(.tcp4, cut: true, payload: 0, segmentSize: 0, using: &generator)
      } while model.header[1] != 1 || OffloadPacket.tagBytes(model.bytes) > 0
    }

    /// The next `payload` bytes; with a segment size they are to be cut.
    mutating func next(_ payload: Int, segmentSize: Int = 0) -> OffloadPacket {
      var packet = model
      let start = Int(packet.header[6])
      packet.bytes.replaceSubrange(
        start + 4..<start + 8,
        with: OffloadPacket.word(Int(sequence >> 16)) + OffloadPacket.word(Int(sequence & 0xffff)))
      packet.bytes += (0..<payload).map { UInt8(truncatingIfNeeded: (Int(sequence) + $0) &* 13) }
      packet.header[1] = segmentSize > 0 ? 1 : 0
      packet.header.replaceSubrange(4..<6, with: OffloadPacket.little(segmentSize))
      sequence &+= UInt32(payload)
      return packet
    }

    /// Bytes of the stream that arrive in order until something is missing or out of place.
    func inOrder(_ frames: [[UInt8]]) -> Int {
      let start = Int(model.header[6])
      var next = 0
      for frame in frames {
        let header = start + Int(frame[start + 12] >> 4) * 4
        let number = frame[start + 4..<start + 8].reduce(0) { $0 << 8 | Int($1) }
        guard number == next, frame[header] == UInt8(truncatingIfNeeded: number &* 13) else {
          return next
        }
        next += frame.count - header
      }
      return next
    }
  }

  @Test(
    "a stream of frames and large packets arrives whole and in order, however slow the interface is",
    arguments: [
      "", "ethtool -K blk0 tx off",
      // It holds packets back that AF_XDP's frames pass by; the socket is full first.
      "tc qdisc add dev blk0 root tbf rate 300mbit burst 70kb limit 8mb",
      // It is full first, and says so.
      "tc qdisc add dev blk0 root tbf rate 300mbit burst 70kb limit 200kb",
    ])
  func order(setting: String) throws {
    try VethPair.with(segmentsTCP: !setting.contains("tx off")) { pair in
      if !setting.isEmpty { try VethPair.run(setting) }
      let scene = try Scene(pair, memory: 256 << 20)
      var generator = SeededGenerator(seed: 33)
      var stream = Stream()
      var frames: [[UInt8]] = []
      var offered = 0
      var large = 0
      var longestWait = 0
      for _ in 0..<60 {
        for _ in 0..<Int.random(in: 1...12, using: &generator) {
          let isLarge = Int.random(in: 0..<3, using: &generator) > 0
          let packet =
            isLarge
            ? stream.next(Int.random(in: 4300...60000, using: &generator), segmentSize: 1400)
            : stream.next(Int.random(in: 1...1400, using: &generator))
          scene.fixture.offer(packet, using: &generator)
          offered += 1
          large += isLarge ? 1 : 0
        }
        // Now and then the ring is let run dry.
        let patience = Bool.random(using: &generator) ? 30 : 1
        var idle = 0
        while idle < patience {
          let moved = scene.fixture.path.run()
          _ = scene.fixture.queue.flush()
          if scene.far.take(into: &frames) || moved > 0 { idle = 0 } else { idle += 1 }
          if moved == 0 { usleep(100) }
          longestWait = max(longestWait, offered - Int(scene.fixture.counters.packets.current))
        }
        _ = try scene.fixture.driver.allUsed()
      }
      frames += scene.collect(.max)
      #expect(stream.inOrder(frames) == Int(stream.sequence))
      #expect(scene.fixture.counters.packets.current == UInt64(offered))
      // Over a slow interface the guest has waited, and frames have followed by the socket.
      let isSlow = setting.contains("tbf")
      #expect(!isSlow || longestWait > 10)
      #expect(!isSlow || scene.counter("bulk_frames") > 20)
      let sent = scene.counter("bulk_packets")
      #expect(
        sent + scene.counter("bulk_busy") <= large && sent * 10 > large * 9, "\(sent) of \(large)")
      #expect(scene.counter("device_refused") == 0 && scene.counter("link_down") == 0)
    }
  }
}
