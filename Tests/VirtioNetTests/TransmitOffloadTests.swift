// Checksums and segments: what leaves is compared with what the kernel makes of the same packets.
import Foundation
import GuestDriver
import HostPort
import Testing
import VirtioNet
import Virtqueue

private let all: VirtioFeatures = [
  .version1, .ringIndirectDesc, .csum, .hostTSO4, .hostTSO6, .hostECN, .hostUSO,
]

extension TransmitFixture {
  /// A ring with all offloads, and frames for every segment.
  init(
    offloads: VirtioFeatures, frameSize: Int = 2048, framesPerPacket: Int = 1,
    memory: Int = 8 << 20
  ) throws {
    var options = ScriptedPort.Options()
    options.transmitFrames = 600
    options.frameSize = frameSize
    options.framesPerPacket = framesPerPacket
    try self.init(features: offloads, ram: GuestRAM(bytes: memory), port: options)
  }

  /// Offers a packet in one descriptor, or cut at random places.
  func offer(_ packet: OffloadPacket, pieces: Int = 1, using generator: inout SeededGenerator) {
    let bytes = packet.header + packet.bytes
    var cuts: Set<Int> = [0, bytes.count]
    for _ in 1..<max(pieces, 1) { cuts.insert(Int.random(in: 0...bytes.count, using: &generator)) }
    let places = cuts.sorted()
    let buffers = zip(places, places.dropFirst()).map { from, to in
      let address = ram.allocate(to - from, alignment: 1)
      ram.write(Array(bytes[from..<to]), at: address)
      return DriverQueue.Buffer(address, UInt32(to - from))
    }
    driver.add(buffers, direct: buffers.count > 16 ? 0 : nil)
    driver.publish()
  }
}

@Suite("What a guest leaves to the device")
struct TransmitOffloadTests {
  private static func packets(
    _ kinds: [OffloadPacket.Kind], cut: Bool, count: Int, seed: UInt64
  ) -> [OffloadPacket] {
    var generator = SeededGenerator(seed: seed)
    return (0..<count).map { i in
      let kind = kinds[i % kinds.count]
      let segment =
        [1448, 1460, 1400, 536, Int.random(in: 200...1460, using: &generator)].randomElement(
          using: &generator)!
      let most = cut ? min(64000, 400 * segment) : 1400
      // The kernel refuses to cut what is one segment already.
      let least = cut ? segment + 1 : 0
      let payload = [Int.random(in: least...most, using: &generator), cut ? 3 * segment : 1400]
        .randomElement(using: &generator)!
      return OffloadPacket(
        kind, cut: cut, payload: payload, segmentSize: segment, using: &generator)
    }
  }

  /// What leaves for each packet, offered in any layout.
  private static func frames(_ packets: [OffloadPacket], seed: UInt64) throws -> [[[UInt8]]] {
    var generator = SeededGenerator(seed: seed)
    let bytes = packets.reduce(0) { $0 + $1.bytes.count + 1024 }
    let fixture = try TransmitFixture(offloads: all, memory: (8 << 20) + bytes)
    let frames = packets.map { packet in
      fixture.offer(
        packet, pieces: [1, 1, 2, 3, 17].randomElement(using: &generator)!, using: &generator)
      let got = fixture.drain()
      _ = try? fixture.driver.allUsed()
      return got
    }
    #expect(fixture.port.problems.isEmpty)
    return frames
  }

  @Test("a checksum that the guest leaves open is filled in, whatever the packet")
  func checksums() throws {
    let packets = TransmitOffloadTests.packets(
      OffloadPacket.Kind.allCases, cut: false, count: 400, seed: 1)
    for (packet, frames) in zip(packets, try TransmitOffloadTests.frames(packets, seed: 2)) {
      try #require(frames.count == 1, "\(packet)")
      let frame = frames[0]
      let start = Int(packet.header[6]) | Int(packet.header[7]) << 8
      let field = start + Int(packet.header[8])
      // Nothing else changes, and the sum over all, with that of the pseudo-header, is what it
      // should be.
      var expected = packet.bytes
      expected.replaceSubrange(field..<field + 2, with: frame[field..<field + 2])
      #expect(frame == expected, "\(packet)")
      let pseudo = packet.bytes[field..<field + 2]
      let sum = OffloadPacket.sum(frame[start...]) + OffloadPacket.sum(pseudo)
      #expect(OffloadPacket.fold(sum) == 0xffff, "\(packet)")
    }
  }

  @Test(
    "a packet is cut into the segments that the specification wants",
    arguments: OffloadPacket.Kind.allCases)
  func segments(kind: OffloadPacket.Kind) throws {
    let packets = TransmitOffloadTests.packets([kind], cut: true, count: 60, seed: 3)
    for (packet, frames) in zip(packets, try TransmitOffloadTests.frames(packets, seed: 4)) {
      let size = Int(packet.header[4]) | Int(packet.header[5]) << 8
      let headers = Int(packet.header[2]) | Int(packet.header[3]) << 8
      let payload = packet.bytes.count - headers
      try #require(frames.count == max(1, (payload + size - 1) / size), "\(packet)")
      #expect(frames.flatMap { $0[headers...] } == Array(packet.bytes[headers...]), "\(packet)")
      #expect(frames.dropLast().allSatisfy { $0.count == headers + size }, "\(packet)")
    }
  }

  @Test(
    "the kernel makes the same frames of the same packets, byte for byte",
    .enabled(if: geteuid() == 0, "network namespaces need root"), arguments: [false, true])
  func kernelsOwn(cut: Bool) throws {
    let packets = TransmitOffloadTests.packets(
      OffloadPacket.Kind.allCases, cut: cut, count: cut ? 1200 : 2400, seed: 5)
    let ours = try TransmitOffloadTests.frames(packets, seed: 6)
    let theirs = try kernel(packets)
    try #require(theirs.count == packets.count)
    var compared = 0
    for (packet, (ours, theirs)) in zip(packets, zip(ours, theirs)) {
      guard let theirs else { continue }
      compared += 1
      // TCP has two zeroes, of which the kernel takes the other one.
      let isSame =
        ours.map(hexadecimal) == theirs
        || !cut && ours.count == 1 && theirs.count == 1 && packet.same(ours[0], bytes(theirs[0]))
      try #require(isSame, "\(packet): \(ours.map(hexadecimal)) \(theirs)")
    }
    #expect(compared * 100 >= packets.count * 99, "the kernel takes nearly every packet")
  }

  @Test(
    "a checksum that is zero is stored as 0 for TCP and as 0xffff for UDP",
    arguments: OffloadPacket.Kind.allCases)
  func zeroChecksum(kind: OffloadPacket.Kind) throws {
    var generator = SeededGenerator(seed: 14)
    for _ in 0..<20 {
      let fixture = try TransmitFixture(offloads: all)
      var packet = OffloadPacket(kind, cut: false, payload: 200, segmentSize: 0, using: &generator)
      fixture.offer(packet, using: &generator)
      let frame = try #require(fixture.drain().first)
      let start = packet.checksumStart
      let field = start + Int(packet.header[8])
      // What is missing to a sum of 0xffff is added to a word of the payload.
      let word = packet.bytes.count - 2 - (packet.bytes.count - start) % 2
      let sum =
        OffloadPacket.sum(frame[field..<field + 2])
        + OffloadPacket.sum(packet.bytes[word..<word + 2])
      packet.bytes.replaceSubrange(
        word..<word + 2, with: OffloadPacket.word(Int(OffloadPacket.fold(sum))))
      fixture.offer(packet, using: &generator)
      let zero = try #require(fixture.drain().first)
      let isUDP = packet.header[8] == 6
      #expect(Array(zero[field..<field + 2]) == (isUDP ? [255, 255] : [0, 0]), "\(packet)")
    }
  }

  @Test("hdr_len is a hint that nobody needs", arguments: [0, 1, 65535] as [UInt16])
  func headerLength(value: UInt16) throws {
    var generator = SeededGenerator(seed: 7)
    let fixture = try TransmitFixture(offloads: all)
    var packet = OffloadPacket(
      .tcp4, cut: true, payload: 5000, segmentSize: 1000, using: &generator)
    fixture.offer(packet, using: &generator)
    let expected = fixture.drain()
    packet.header.replaceSubrange(2..<4, with: OffloadPacket.little(Int(value)))
    fixture.offer(packet, using: &generator)
    #expect(fixture.drain() == expected && expected.count == 5)
  }

  @Test(
    "a packet to be cut that is one segment leaves as one", arguments: OffloadPacket.Kind.allCases)
  func oneSegment(kind: OffloadPacket.Kind) throws {
    var generator = SeededGenerator(seed: 13)
    let fixture = try TransmitFixture(offloads: all)
    for payload in [1, 999, 1000] {
      let packet = OffloadPacket(
        kind, cut: true, payload: payload, segmentSize: 1000, using: &generator)
      fixture.offer(packet, using: &generator)
      #expect(fixture.drain().map(\.count) == [packet.bytes.count])
    }
  }

  @Test("what was not negotiated is dropped and counted")
  func notNegotiated() throws {
    var generator = SeededGenerator(seed: 8)
    for (kind, cut, missing) in [
      (.tcp4, false, .csum), (.tcp4, true, .hostTSO4), (.tcp6, true, .hostTSO6),
      (.udp4, true, .hostUSO), (.udp6, true, .hostUSO),
    ] as [(OffloadPacket.Kind, Bool, VirtioFeatures)] {
      let fixture = try TransmitFixture(offloads: all.subtracting(missing))
      fixture.offer(
        OffloadPacket(kind, cut: cut, payload: 1400, segmentSize: 700, using: &generator),
        using: &generator)
      #expect(fixture.drain().isEmpty)
      #expect(fixture.counters.dropped(.badHeader) == 1, "\(kind)")
      #expect(try fixture.driver.allUsed().count == 1)
    }
  }

  @Test("header and packet that contradict each other are dropped and counted")
  func contradictions() throws {
    var generator = SeededGenerator(seed: 9)
    let fixture = try TransmitFixture(offloads: all)
    let good = OffloadPacket(.tcp4, cut: true, payload: 3000, segmentSize: 1000, using: &generator)
    let start = Int(good.header[6])
    let changes: [(String, (inout OffloadPacket) -> Void)] = [
      ("gso_size 0", { $0.header.replaceSubrange(4..<6, with: [0, 0]) }),
      ("no NEEDS_CSUM", { $0.header[0] = 0 }),
      ("csum_start in the IP header", { $0.header[6] -= 2 }),
      ("csum_start behind", { $0.header[6] += 2 }),
      ("csum_offset of UDP", { $0.header[8] = 6 }),
      ("csum_start beyond the packet", { $0.header[7] = 0xff }),
      ("csum_offset beyond the packet", { $0.header[9] = 0xff }),
      ("TSO6 of an IPv4 packet", { $0.header[1] = 4 }),
      ("USO of a TCP packet", { $0.header[1] = 5 }),
      ("UFO", { $0.header[1] = 3 }),
      ("TCP header longer than the packet", { $0.bytes.removeLast($0.bytes.count - start - 19) }),
      ("IP version 5", { packet in packet.bytes[packet.bytes.firstIndex(of: 0x45) ?? 14] = 0x55 }),
    ]
    for (what, change) in changes {
      var packet = good
      change(&packet)
      let before = fixture.counters.dropped(.badOffload) + fixture.counters.dropped(.badHeader)
      fixture.offer(packet, using: &generator)
      #expect(fixture.drain().isEmpty, "\(what)")
      let after = fixture.counters.dropped(.badOffload) + fixture.counters.dropped(.badHeader)
      #expect(after == before + 1, "\(what)")
    }
    fixture.offer(good, using: &generator)
    #expect(fixture.drain().count == 3)
  }

  @Test("more segments than there can be frames for cost that packet")
  func tooMany() throws {
    var generator = SeededGenerator(seed: 10)
    let fixture = try TransmitFixture(offloads: all)
    fixture.offer(
      OffloadPacket(.udp4, cut: true, payload: 60000, segmentSize: 1, using: &generator),
      using: &generator)
    #expect(fixture.drain().isEmpty)
    #expect(fixture.counters.dropped(.tooManySegments) == 1)
  }

  @Test("a packet waits for all its frames, and nothing overtakes it")
  func waits() throws {
    var generator = SeededGenerator(seed: 11)
    var options = ScriptedPort.Options()
    options.transmitFrames = 50
    options.completesAtOnce = false
    let fixture = try TransmitFixture(features: all, port: options)
    let packet = OffloadPacket(
      .tcp6, cut: true, payload: 40000, segmentSize: 1000, using: &generator)
    let small = OffloadPacket(.udp4, cut: false, payload: 20, segmentSize: 0, using: &generator)
    for _ in 0..<3 {
      fixture.offer(packet, using: &generator)
      fixture.offer(small, using: &generator)
    }
    var frames = fixture.drain()
    #expect(frames.count == 41 && fixture.path.isStarved)
    for _ in 0..<10 {
      fixture.port[0].complete()
      frames += fixture.drain()
    }
    #expect(frames.count == 123 && !fixture.path.isStarved)
    for i in 0..<3 { #expect(frames[41 * i + 40].count == small.bytes.count) }
    #expect(try fixture.driver.allUsed().count == 6)
    #expect(fixture.counters.segments.current == 120)
    #expect(fixture.port.problems.isEmpty)
  }

  @Test("a packet that waits keeps its frames from other rings of the port, and gives them back")
  func keepsFrames() throws {
    var generator = SeededGenerator(seed: 14)
    var options = ScriptedPort.Options()
    options.transmitFrames = 50
    options.completesAtOnce = false
    let fixture = try TransmitFixture(features: all, port: options)
    var path: TransmitPath? = try TransmitPath(
      fixture.driver.config(index: 1, memory: try fixture.ram.memory()), port: fixture.queue,
      counters: fixture.counters)
    // Others have 30 of the 50: a packet of 40 has to wait, and holds what there is.
    let others = FrameBatch()
    fixture.queue.reserve(30, into: others)
    fixture.offer(
      OffloadPacket(.tcp4, cut: true, payload: 40000, segmentSize: 1000, using: &generator),
      using: &generator)
    #expect(path?.run() == 0 && path?.isStarved == true)
    let more = FrameBatch()
    fixture.queue.reserve(64, into: more)
    #expect(more.count == 0)
    // Until its ring stops.
    path = nil
    fixture.queue.reserve(64, into: more)
    #expect(more.count == 20)
    fixture.queue.transmit(more, count: 0)
    fixture.queue.transmit(others, count: 0)
    #expect(fixture.drain().count == 40)
    fixture.port[0].complete()
    #expect(fixture.port[0].isComplete && fixture.port.problems.isEmpty)
  }

  @Test("two packets that wait for each other's frames do not wait for ever")
  func noDeadlock() throws {
    var generator = SeededGenerator(seed: 15)
    var options = ScriptedPort.Options()
    options.transmitFrames = 50
    let port = try ScriptedPort(options)
    let queue = try port.openQueue(0)
    let ram = try GuestRAM(bytes: 8 << 20)
    let packet = OffloadPacket(
      .tcp4, cut: true, payload: 40000, segmentSize: 1000, using: &generator)
    let address = ram.allocate(packet.header.count + packet.bytes.count, alignment: 1)
    ram.write(packet.header + packet.bytes, at: address)
    let paths = try (0..<2).map { index in
      let driver = DriverQueue(in: ram, size: 8, features: all)
      driver.add([.init(address, UInt32(packet.header.count + packet.bytes.count))])
      driver.publish()
      return try TransmitPath(
        driver.config(index: 2 * index + 1, memory: try ram.memory()), port: queue,
        counters: RingCounters())
    }
    let others = FrameBatch()
    queue.reserve(20, into: others)
    #expect(paths[0].run() == 0)
    queue.transmit(others, count: 0)
    #expect(paths[1].run() == 0)
    // One has 30, the other 20, and each needs 40.
    #expect(paths[0].run() == 0 && paths[1].run() == 0)
    var moved = 0
    #expect(
      eventually {
        for path in paths { moved += path.run() }
        _ = queue.flush()
        return moved == 80
      })
    #expect(port[0].isComplete && port.problems.isEmpty)
  }

  @Test(
    "packets and segments that are larger than a frame lie in several", arguments: [false, true])
  func largeFrames(cut: Bool) throws {
    var generator = SeededGenerator(seed: 12)
    for payload in [3000, 4097, 8000, 8001] {
      let packet = OffloadPacket(
        .tcp4, cut: cut, payload: cut ? 3 * payload - 1 : payload, segmentSize: payload,
        using: &generator)
      let whole = try TransmitFixture(offloads: all, frameSize: 16384)
      let parts = try TransmitFixture(offloads: all, frameSize: 2047, framesPerPacket: 5)
      for fixture in [whole, parts] { fixture.offer(packet, pieces: 7, using: &generator) }
      let expected = whole.drain()
      #expect(expected.count == (cut ? 3 : 1))
      #expect(parts.drain() == expected)
    }
  }
}
