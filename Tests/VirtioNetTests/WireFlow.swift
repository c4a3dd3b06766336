// Packets of a flow as they come from the wire, and the textbook's way to cut a packet again that was
// merged from them.  It shares nothing with the code that it tests.
import GuestDriver

struct WireFlow {
  typealias Kind = OffloadPacket.Kind
  let kind: Kind
  var link: [UInt8]
  var source: [UInt8]
  var destination: [UInt8]
  var ports: [UInt8]
  var sequence: UInt32
  var acknowledgement: [UInt8]
  var window: [UInt8]
  var options: [UInt8]
  var typeOfService: UInt8
  var hops: UInt8 = 64
  var label: [UInt8]
  var identification: UInt16
  var identificationStep: UInt16 = 1
  var isUnfragmentable = true

  init(_ kind: Kind, number: UInt8 = 1, tags: Int = 0, using generator: inout SeededGenerator) {
    func random(_ count: Int) -> [UInt8] {
      (0..<count).map { _ in UInt8.random(in: 0...255, using: &generator) }
    }
    self.kind = kind
    link = [0x02, 0, 0, 0, 0, 2, 0x02, 0, 0, 0, 0, 1]
    for tag in 0..<tags { link += (tag < tags - 1 ? [0x88, 0xa8] : [0x81, 0]) + [0, number] }
    link += kind.isIPv4 ? [8, 0] : [0x86, 0xdd]
    source = (kind.isIPv4 ? [10, 0, 0] : random(15)) + [number]
    destination = kind.isIPv4 ? [10, 0, 1, number] : random(16)
    ports = random(4)
    sequence = UInt32.random(in: 0...UInt32.max, using: &generator)
    acknowledgement = random(4)
    window = random(2)
    options = kind.isTCP ? [1, 1, 8, 10] + random(8) : []
    typeOfService = [0, 0, 2, 1].randomElement(using: &generator)!
    label = random(2)
    identification = UInt16.random(in: 0...65535, using: &generator)
  }

  var networkStart: Int { link.count }
  var transportStart: Int { link.count + (kind.isIPv4 ? 20 : 40) }
  var headerLength: Int { transportStart + (kind.isTCP ? 20 + options.count : 8) }

  /// The next packet of the flow.
  /// - Parameter flags: of TCP.
  mutating func next(_ payload: [UInt8], flags: UInt8 = 0x10) -> [UInt8] {
    let transportLength = (kind.isTCP ? 20 + options.count : 8) + payload.count
    var network: [UInt8]
    if kind.isIPv4 {
      network = [0x45, typeOfService] + OffloadPacket.word(20 + transportLength)
      network += OffloadPacket.word(Int(identification)) + [isUnfragmentable ? 0x40 : 0, 0]
      network += [hops, kind.isTCP ? 6 : 17, 0, 0] + source + destination
      identification &+= identificationStep
    } else {
      network = [0x60 | typeOfService >> 4, typeOfService << 4] + label
      network += OffloadPacket.word(transportLength) + [kind.isTCP ? 6 : 17, hops]
      network += source + destination
    }
    var transport = ports
    if kind.isTCP {
      transport += OffloadPacket.word(Int(sequence >> 16))
      transport += OffloadPacket.word(Int(sequence & 0xffff)) + acknowledgement
      transport += [UInt8(20 + options.count) << 2, flags] + window + [0, 0, 0, 0] + options
      sequence &+= UInt32(payload.count)
    } else {
      transport += OffloadPacket.word(transportLength) + [0, 0]
    }
    return WireFlow.summed(link + network + transport + payload)
  }

  // MARK: the textbook

  /// Byte offsets of the IP header and of the transport header.
  static func places(_ frame: [UInt8]) -> (network: Int, transport: Int) {
    var network = 14
    while frame[network - 2] == 0x81 || frame[network - 2] == 0x88 { network += 4 }
    return (network, network + (frame[network] >> 4 == 4 ? Int(frame[network] & 15) * 4 : 40))
  }

  private static func isIPv4(_ frame: [UInt8]) -> Bool { frame[places(frame).network] >> 4 == 4 }
  private static func isTCP(_ frame: [UInt8]) -> Bool {
    frame[places(frame).network + (isIPv4(frame) ? 9 : 6)] == 6
  }

  static func pseudoHeader(_ frame: [UInt8]) -> UInt64 {
    let (network, transport) = places(frame)
    let addresses = isIPv4(frame) ? network + 12..<network + 20 : network + 8..<network + 40
    return OffloadPacket.sum(frame[addresses]) + (isTCP(frame) ? 6 : 17)
      + UInt64(frame.count - transport)
  }

  /// With right checksums.
  static func summed(_ frame: [UInt8]) -> [UInt8] {
    var frame = frame
    let (network, transport) = places(frame)
    if isIPv4(frame) {
      frame.replaceSubrange(network + 10..<network + 12, with: [0, 0])
      let sum = OffloadPacket.fold(OffloadPacket.sum(frame[network..<transport]))
      frame.replaceSubrange(network + 10..<network + 12, with: OffloadPacket.word(Int(~sum)))
    }
    let field = transport + (isTCP(frame) ? 16 : 6)
    frame.replaceSubrange(field..<field + 2, with: [0, 0])
    let sum = ~OffloadPacket.fold(OffloadPacket.sum(frame[transport...]) + pseudoHeader(frame))
    frame.replaceSubrange(
      field..<field + 2, with: OffloadPacket.word(Int(sum == 0 && !isTCP(frame) ? 0xffff : sum)))
    return frame
  }

  /// Without what stands behind the IP packet.
  static func trimmed(_ frame: [UInt8]) -> [UInt8] {
    guard frame.count > 20 else { return frame }
    let network = places(frame).network
    guard frame[network - 2] == 8 || frame[network - 2] == 0x86, frame[network - 1] != 6 else {
      return frame
    }
    let length =
      isIPv4(frame)
      ? Int(frame[network + 2]) << 8 + Int(frame[network + 3])
      : 40 + Int(frame[network + 4]) << 8 + Int(frame[network + 5])
    return Array(frame.prefix(network + length))
  }

  static func isIntact(_ frame: [UInt8]) -> Bool {
    let frame = trimmed(frame)
    return summed(frame) == frame
  }

  /// What is wrong with the virtio-net header of a merged packet, or nothing.
  static func complaint(_ header: [UInt8], _ frame: [UInt8]) -> String? {
    let (network, transport) = places(frame)
    func little(_ offset: Int) -> Int { Int(header[offset]) | Int(header[offset + 1]) << 8 }
    let isTCP = isTCP(frame)
    let start = transport + (isTCP ? Int(frame[transport + 12] >> 4) * 4 : 8)
    let field = transport + (isTCP ? 16 : 6)
    if header[0] != 1 { return "flags \(header[0])" }
    let type: UInt8 = !isTCP ? 5 : isIPv4(frame) ? 1 : 4
    let ecn: UInt8 = isTCP && frame[transport + 13] & 0x80 != 0 ? 0x80 : 0
    if header[1] != type | ecn { return "gso_type \(header[1])" }
    if little(2) != start { return "hdr_len \(little(2))" }
    if little(4) == 0 || frame.count - start <= little(4) { return "gso_size \(little(4))" }
    if little(6) != transport || little(8) != field - transport { return "csum_start" }
    if frame.count > 65535 { return "length \(frame.count)" }
    let sum = OffloadPacket.word(Int(OffloadPacket.fold(pseudoHeader(frame))))
    if Array(frame[field..<field + 2]) != sum { return "no sum of the pseudo-header" }
    if trimmed(frame) != frame { return "IP length" }
    if isIPv4(frame), OffloadPacket.fold(OffloadPacket.sum(frame[network..<transport])) != 0xffff {
      return "IP checksum"
    }
    if !isTCP, Int(frame[transport + 4]) << 8 + Int(frame[transport + 5]) != frame.count - transport
    {
      return "UDP length"
    }
    return nil
  }

  /// Cuts a packet that was merged.
  /// - Parameter step: what identifications rise by.
  static func cut(_ header: [UInt8], _ frame: [UInt8], step: Int = 1) -> [[UInt8]] {
    let (network, transport) = places(frame)
    let isTCP = isTCP(frame)
    let start = transport + (isTCP ? Int(frame[transport + 12] >> 4) * 4 : 8)
    let size = Int(header[4]) | Int(header[5]) << 8
    func number(_ offset: Int, _ count: Int) -> Int {
      frame[offset..<offset + count].reduce(0) { $0 << 8 + Int($1) }
    }
    return stride(from: start, to: frame.count, by: size).map { from in
      let end = min(from + size, frame.count)
      var piece = Array(frame[..<start] + frame[from..<end])
      let length = piece.count - network
      let index = (from - start) / size
      if isIPv4(frame) {
        piece.replaceSubrange(network + 2..<network + 4, with: OffloadPacket.word(length))
        let identification = (number(network + 4, 2) + step * index) & 0xffff
        piece.replaceSubrange(network + 4..<network + 6, with: OffloadPacket.word(identification))
      } else {
        piece.replaceSubrange(network + 4..<network + 6, with: OffloadPacket.word(length - 40))
      }
      if isTCP {
        let sequence = (number(transport + 4, 4) + from - start) & 0xffff_ffff
        piece.replaceSubrange(
          transport + 4..<transport + 8,
          with: OffloadPacket.word(sequence >> 16) + OffloadPacket.word(sequence & 0xffff))
        if end < frame.count { piece[transport + 13] &= ~0x09 }
        if from > start { piece[transport + 13] &= ~0x80 }
      } else {
        piece.replaceSubrange(
          transport + 4..<transport + 6, with: OffloadPacket.word(piece.count - transport))
      }
      return summed(piece)
    }
  }
}
