// Checksums that are left to the device behind the port: the frames must be those that the daemon makes
// by itself, whoever fills them in.
import AFXDP
import GuestDriver
import HostPort
import Testing
import VirtioNet
import Virtqueue

private let all: VirtioFeatures = [
  .version1, .ringIndirectDesc, .csum, .hostTSO4, .hostTSO6, .hostECN, .hostUSO,
]

extension OffloadPacket {
  /// Packets of every kind, to be cut or not, whose frames fit a link of MTU 1700.
  static func mixture(_ count: Int, cut: Bool, seed: UInt64) -> [OffloadPacket] {
    var generator = SeededGenerator(seed: seed)
    return (0..<count).map { i in
      let segment = Int.random(in: 100...1460, using: &generator)
      return OffloadPacket(
        Kind.allCases[i % Kind.allCases.count], cut: cut,
        payload: Int.random(in: 0...(cut ? min(20 * segment, 64000) : 1460), using: &generator),
        segmentSize: segment, using: &generator)
    }
  }

  /// Byte offset of the TCP or UDP header.
  var checksumStart: Int { Int(header[6]) | Int(header[7]) << 8 }

  /// Nothing but Ethernet, one VLAN tag, IP without options or extension headers, TCP and UDP.
  var isUsual: Bool {
    [34, 38].contains(checksumStart) && bytes[checksumStart - 20] == 0x45
      || [54, 58].contains(checksumStart) && bytes[checksumStart - 40] >> 4 == 6
        && [6, 17].contains(bytes[checksumStart - 34])
  }

  /// The two zeroes of a TCP checksum are the same to any receiver: ours is 0 where the kernel's sum of
  /// a whole packet is 0xffff.
  func same(_ a: [UInt8], _ b: [UInt8]) -> Bool {
    if a == b { return true }
    let field = checksumStart + Int(header[8])
    guard a.count == b.count, field + 2 <= a.count else { return false }
    let sums = [Array(a[field..<field + 2]), Array(b[field..<field + 2])]
    guard sums == [[0, 0], [255, 255]] || sums == [[255, 255], [0, 0]] else { return false }
    var copy = a
    copy.replaceSubrange(field..<field + 2, with: b[field..<field + 2])
    return copy == b
  }
}

extension TransmitFixture {
  /// What leaves for each packet; the room of a frame is that of the link above.
  static func frames(
    of packets: [OffloadPacket], seed: UInt64, fillsChecksums: Bool
  ) throws -> (frames: [[[UInt8]]], requests: Int) {
    var generator = SeededGenerator(seed: seed)
    var options = ScriptedPort.Options()
    options.transmitFrames = 600
    options.frameSize = 1792
    options.fillsChecksums = fillsChecksums
    let bytes = packets.reduce(0) { $0 + $1.bytes.count + 1024 }
    let fixture = try TransmitFixture(
      features: all, ram: GuestRAM(bytes: (8 << 20) + bytes), port: options)
    let frames = packets.map { packet in
      fixture.offer(
        packet, pieces: [1, 1, 2, 3, 17].randomElement(using: &generator)!, using: &generator)
      let got = fixture.drain()
      _ = try? fixture.driver.allUsed()
      return got
    }
    #expect(fixture.port.problems.isEmpty, "\(fixture.port.problems)")
    return (frames, fixture.port[0].checksumRequestCount)
  }
}

@Suite("Checksums that the device fills in")
struct DeviceChecksumTests {
  @Test("the frames are the same as those that the daemon fills in", arguments: [false, true])
  func sameFrames(cut: Bool) throws {
    let packets = OffloadPacket.mixture(cut ? 300 : 3000, cut: cut, seed: 21)
    let ours = try TransmitFixture.frames(of: packets, seed: 22, fillsChecksums: false)
    let device = try TransmitFixture.frames(of: packets, seed: 23, fillsChecksums: true)
    #expect(ours.requests == 0)
    var asked = 0
    for (packet, (ours, device)) in zip(packets, zip(ours.frames, device.frames)) {
      try #require(!ours.isEmpty && ours.count == device.count, "\(packet)")
      #expect(zip(ours, device).allSatisfy { packet.same($0, $1) }, "\(packet)")
      if packet.isUsual { asked += ours.count }
    }
    #expect(asked > 300)
    #expect(device.requests == asked, "the usual packets are left to the device, and no other")
  }

  @Test("a device that finds headers by itself gets no packet whose lengths are not its own")
  func lengths() throws {
    var generator = SeededGenerator(seed: 24)
    for kind in OffloadPacket.Kind.allCases {
      var packet = OffloadPacket(
        kind, cut: false, payload: 200, segmentSize: 0, using: &generator)
      while !packet.isUsual {
        packet = OffloadPacket(kind, cut: false, payload: 200, segmentSize: 0, using: &generator)
      }
      packet.bytes += [1, 2, 3]
      let device = try TransmitFixture.frames(of: [packet], seed: 1, fillsChecksums: true)
      let ours = try TransmitFixture.frames(of: [packet], seed: 1, fillsChecksums: false)
      #expect(device.requests == 0 && device.frames == ours.frames && ours.frames[0].count == 1)
    }
  }

  @Test("a packet of several frames is summed here")
  func severalFrames() throws {
    var generator = SeededGenerator(seed: 25)
    for cut in [false, true] {
      let packet = OffloadPacket(
        .tcp4, cut: cut, payload: cut ? 9000 : 3000, segmentSize: 3000, using: &generator)
      var options = ScriptedPort.Options()
      options.frameSize = 1792
      options.framesPerPacket = 3
      options.fillsChecksums = true
      let parts = try TransmitFixture(features: all, port: options)
      parts.offer(packet, pieces: 3, using: &generator)
      options.frameSize = 16384
      options.fillsChecksums = false
      let whole = try TransmitFixture(features: all, port: options)
      whole.offer(packet, pieces: 3, using: &generator)
      #expect(parts.drain() == whole.drain())
      #expect(parts.port[0].checksumRequestCount == 0 && parts.port.problems.isEmpty)
    }
  }

  @Test("packets that ask for nothing ask the device for nothing")
  func plain() throws {
    var options = ScriptedPort.Options()
    options.fillsChecksums = true
    let fixture = try TransmitFixture(features: all, port: options)
    for size in [60, 1514] { fixture.offerRaw([UInt8](repeating: 0, count: 12) + frame(size)) }
    #expect(fixture.drain() == [frame(60), frame(1514)])
    #expect(fixture.port[0].checksumRequestCount == 0 && fixture.port.problems.isEmpty)
  }
}
