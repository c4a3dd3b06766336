// Packets with every kind of header that a guest may leave to the device to sum or to cut.
import GuestDriver

/// A packet with its virtio-net header, as a driver offers it.
struct OffloadPacket: CustomStringConvertible {
  var header: [UInt8]
  var bytes: [UInt8]
  var description = ""

  enum Kind: CaseIterable {
    case tcp4
    case tcp6
    case udp4
    case udp6

    var isIPv4: Bool { self == .tcp4 || self == .udp4 }
    var isTCP: Bool { self == .tcp4 || self == .tcp6 }
  }

  /// A good packet.
  /// - Parameter cut: it is to be cut, and summed; else only summed.
  init(
    _ kind: Kind, cut: Bool, payload: Int, segmentSize: Int,
    using generator: inout SeededGenerator
  ) {
    func random(_ count: Int, _ generator: inout SeededGenerator) -> [UInt8] {
      (0..<count).map { _ in UInt8.random(in: 0...255, using: &generator) }
    }
    let tags = [0, 0, 1, 2].randomElement(using: &generator)!
    var link: [UInt8] = [0x02, 0, 0, 0, 0, 2, 0x02, 0, 0, 0, 0, 1]
    for tag in 0..<tags {
      link += tag < tags - 1 ? [0x88, 0xa8] : [0x81, 0x00]
      link += [
        UInt8.random(in: 0...15, using: &generator), UInt8.random(in: 1...254, using: &generator),
      ]
    }
    link += kind.isIPv4 ? [0x08, 0x00] : [0x86, 0xdd]
    let options = kind.isTCP ? 4 * Int.random(in: 0...10, using: &generator) : 0
    let transportLength = kind.isTCP ? 20 + options : 8
    var network: [UInt8]
    if kind.isIPv4 {
      // Options that need no action: padding.
      let words = [0, 0, 0, 1, 10].randomElement(using: &generator)!
      network = [UInt8(0x45 + words)] + random(1, &generator)
      network += OffloadPacket.word(20 + 4 * words + transportLength + payload)
      network += random(2, &generator) + [0x40, 0] + [64, kind.isTCP ? 6 : 17, 0, 0]
      network += [10, 1] + random(2, &generator) + [10, 2] + random(2, &generator)
      network += [UInt8](repeating: 1, count: 4 * words)
    } else {
      let next: UInt8 = kind.isTCP ? 6 : 17
      var extensions: [UInt8] = []
      var first = next
      // Destination options after hop-by-hop options, of padding.
      for type in [60, 0] as [UInt8] where Bool.random(using: &generator) {
        let units = Int.random(in: 0...2, using: &generator)
        let padding = [1, UInt8(4 + 8 * units)] + [UInt8](repeating: 0, count: 4 + 8 * units)
        extensions = [first, UInt8(units)] + padding + extensions
        first = type
      }
      network = [0x60] + random(3, &generator)
      network += OffloadPacket.word(extensions.count + transportLength + payload) + [first, 64]
      network += [0xfd] + random(15, &generator) + [0xfd] + random(15, &generator) + extensions
    }
    var transport: [UInt8]
    var ecn = false
    if kind.isTCP {
      var flags = UInt8.random(in: 0...255, using: &generator) & 0b1101_1001 | 0x10
      if !cut { flags &= 0x7f }
      ecn = flags & 0x80 != 0
      transport =
        random(12, &generator) + [UInt8((20 + options) << 2), flags] + random(2, &generator)
      transport += [0, 0, 0, 0] + [UInt8](repeating: 1, count: options)
    } else {
      transport = random(4, &generator) + OffloadPacket.word(8 + payload) + [0, 0]
    }
    // What a driver leaves in the field: the sum of the pseudo-header.
    let length = transportLength + payload
    let addresses = kind.isIPv4 ? network[12..<20] : network[8..<40]
    let sum = OffloadPacket.fold(
      OffloadPacket.sum(addresses) + (kind.isTCP ? 6 : 17) + UInt64(length))
    let field = kind.isTCP ? 16 : 6
    transport.replaceSubrange(field..<field + 2, with: OffloadPacket.word(Int(sum)))

    bytes = link + network + transport + random(payload, &generator)
    let gsoType: UInt8 = !cut ? 0 : kind == .tcp4 ? 1 : kind == .tcp6 ? 4 : 5
    let start = link.count + network.count
    header = [1, gsoType | (cut && ecn ? 0x80 : 0)]
    header += OffloadPacket.little(start + transport.count)
    header += OffloadPacket.little(cut ? segmentSize : 0)
    header += OffloadPacket.little(start) + OffloadPacket.little(field) + [0, 0]
    description =
      "\(kind), \(tags) tags, \(network.count) bytes of IP, \(options) of TCP options, payload "
      + "\(payload), segments of \(segmentSize)"
  }

  /// Bytes of the VLAN tags of a frame.
  static func tagBytes(_ frame: [UInt8]) -> Int {
    var offset = 12
    while [[0x88, 0xa8], [0x81, 0x00]].contains(Array(frame[offset..<offset + 2])) { offset += 4 }
    return offset - 12
  }

  var hexadecimal: String {
    (header + bytes).map { ($0 < 16 ? "0" : "") + String($0, radix: 16) }.joined()
  }

  /// 16 bits in network byte order.
  static func word(_ value: Int) -> [UInt8] { [UInt8(value >> 8 & 255), UInt8(value & 255)] }
  static func little(_ value: Int) -> [UInt8] { [UInt8(value & 255), UInt8(value >> 8 & 255)] }

  /// The textbook's sum, a word at a time.
  static func sum(_ bytes: some Collection<UInt8>) -> UInt64 {
    var sum: UInt64 = 0
    for (i, byte) in bytes.enumerated() { sum += i % 2 == 0 ? UInt64(byte) << 8 : UInt64(byte) }
    return sum
  }

  static func fold(_ sum: UInt64) -> UInt16 {
    var sum = sum
    while sum > 0xffff { sum = (sum & 0xffff) + (sum >> 16) }
    return UInt16(sum)
  }
}
