// What is told in a few instructions is what the thorough look tells.
import Packet
import Testing

/// The same numbers in every run (SplitMix64).
private struct Steps: RandomNumberGenerator {
  var state: UInt64 = 1
  mutating func next() -> UInt64 {
    state &+= 0x9e37_79b9_7f4a_7c15
    var z = state
    z = (z ^ (z >> 30)) &* 0xbf58_476d_1ce4_e5b9
    z = (z ^ (z >> 27)) &* 0x94d0_49bb_1331_11eb
    return z ^ (z >> 31)
  }
}

@Suite("The headers of nearly all packets")
struct UsualHeadersTests {
  private let link = [UInt8](repeating: 2, count: 12)

  private func ipv4(_ next: UInt8, payload: Int, fragment: [UInt8] = [0x40, 0]) -> [UInt8] {
    let length = 20 + payload
    return [0x45, 0, UInt8(length >> 8), UInt8(length & 255), 0, 1] + fragment + [64, next]
      + [UInt8](repeating: 0, count: 10)
  }

  private func ipv6(_ next: UInt8, payload: Int) -> [UInt8] {
    [0x60, 0, 0, 0, UInt8(payload >> 8), UInt8(payload & 255), next, 64]
      + [UInt8](repeating: 0, count: 32)
  }

  private func transport(_ next: UInt8, payload: Int) -> [UInt8] {
    let datagram = 8 + payload
    let udp: [UInt8] = [0, 1, 0, 2, UInt8(datagram >> 8), UInt8(datagram & 255), 0, 0]
    let tcp = [UInt8](repeating: 0, count: 12) + [0x50] + [UInt8](repeating: 0, count: 7)
    return (next == 6 ? tcp : udp) + [UInt8](repeating: 9, count: payload)
  }

  /// With and without tag, both IPs, TCP and UDP.
  private func packets(payload: Int) -> [[UInt8]] {
    var packets: [[UInt8]] = []
    for tag in [[], [0x81, 0, 0x20, 5]] as [[UInt8]] {
      for next in [6, 17] as [UInt8] {
        let inside = transport(next, payload: payload)
        packets.append(link + tag + [8, 0] + ipv4(next, payload: inside.count) + inside)
        packets.append(link + tag + [0x86, 0xdd] + ipv6(next, payload: inside.count) + inside)
      }
    }
    return packets
  }

  private func usual(_ bytes: [UInt8]) -> UsualHeaders? {
    unsafe bytes.withUnsafeBytes { unsafe UsualHeaders($0.baseAddress!, length: bytes.count) }
  }

  private func fits(_ bytes: [UInt8]) -> Bool? {
    unsafe bytes.withUnsafeBytes {
      let bytes = unsafe $0
      return unsafe UsualHeaders(bytes.baseAddress!, length: bytes.count)?.fit(
        bytes.baseAddress!, length: bytes.count)
    }
  }

  private func thorough(_ bytes: [UInt8]) -> FrameHeaders? {
    unsafe bytes.withUnsafeBytes { unsafe FrameHeaders($0.baseAddress!, count: bytes.count) }
  }

  @Test("tagged or not, both IPs, TCP and UDP are told, from the smallest packet on")
  func told() throws {
    for payload in [0, 1, 18, 300] {
      for packet in packets(payload: payload) {
        let found = try #require(usual(packet))
        let whole = try #require(thorough(packet))
        #expect(found.networkStart == whole.networkStart)
        #expect(found.transportStart == whole.transportStart)
        #expect(found.checksumOffset == (whole.transport == FrameHeaders.tcp ? 16 : 6))
        #expect(fits(packet) == true && whole.areUsual)
      }
    }
  }

  @Test("everything else is left to the thorough look")
  func others() {
    let inside = transport(6, payload: 60)
    for other in [
      link + [8, 6] + ipv4(6, payload: 80) + inside,
      link + [0x88, 0xa8, 0, 1, 0x81, 0, 0, 1, 8, 0] + ipv4(6, payload: 80) + inside,
      link + [0x88, 0xa8, 0, 1, 8, 0] + ipv4(6, payload: 80) + inside,
      link + [0x81, 0, 0, 1, 0x81, 0, 0, 1, 8, 0] + ipv4(6, payload: 80) + inside,
      link + [8, 0, 0x46] + ipv4(6, payload: 84).dropFirst() + [1, 1, 1, 1] + inside,
      link + [8, 0, 0x55] + ipv4(6, payload: 80).dropFirst() + inside,
      link + [8, 0] + ipv4(6, payload: 80, fragment: [0x20, 0]) + inside,
      link + [8, 0] + ipv4(6, payload: 80, fragment: [0, 7]) + inside,
      link + [8, 0] + ipv4(132, payload: 80) + inside,
      link + [0x86, 0xdd] + ipv6(0, payload: 88) + [6, 0, 1, 4, 0, 0, 0, 0] + inside,
      link + [0x86, 0xdd] + ipv6(44, payload: 88) + [6, 0, 0, 0, 0, 0, 0, 0] + inside,
    ] {
      #expect(usual(other) == nil)
      #expect(thorough(other)?.areUsual != true)
    }
  }

  @Test("a length that is not the packet's is seen")
  func lengths() {
    for packet in packets(payload: 40) {
      #expect(fits(packet + [0]) == false)
      #expect(fits(packet.dropLast()) == false)
    }
    var wrong = packets(payload: 40)[2]
    wrong[14 + 20 + 5] += 1
    #expect(fits(wrong) == false)
  }

  @Test("no random change makes it say what the thorough look does not")
  func mutations() {
    var generator = Steps()
    var told = 0
    var wrong: [[UInt8]] = []
    let models = [0, 1, 40, 90].flatMap { packets(payload: $0) }
    for _ in 0..<4000 {
      var packet = models.randomElement(using: &generator)!
      for _ in 0..<Int.random(in: 0...3, using: &generator) {
        packet[Int.random(in: 12..<min(packet.count, 60), using: &generator)] =
          [0, 6, 8, 17, 0x45, 0x60, 0x81, 0x86, 0xdd, 0xff].randomElement(using: &generator)!
      }
      packet.removeLast(Int.random(in: 0...packet.count - 1, using: &generator) / 4)
      guard let found = usual(packet) else {
        if thorough(packet)?.areUsual == true && packet.count >= 42 { wrong.append(packet) }
        continue
      }
      let start = [14, 18, 34, 70, found.transportStart].randomElement(using: &generator)!
      let offset = [6, 16, 2, found.checksumOffset].randomElement(using: &generator)!
      let header = VirtioNetHeader(low: 1 | UInt64(start) << 48, high: UInt32(offset))
      guard let plan = ChecksumOffload(header, of: found, length: packet.count) else { continue }
      told += 1
      let whole = thorough(packet)
      if plan != ChecksumOffload(header, of: whole, length: packet.count)
        || whole?.areUsual != true
      {
        wrong.append(packet)
      }
    }
    #expect(wrong.isEmpty)
    #expect(told > 150)
  }
}
