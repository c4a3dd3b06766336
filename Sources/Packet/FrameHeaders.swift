// Where the headers of a frame are: Ethernet with VLAN tags, IPv4 with options or IPv6 with extension
// headers, TCP or UDP.
//
// The bytes are a private copy of the frame's first ones, and everything in them may be a lie: each
// length is checked against how many bytes there are before anything behind it is read.

public struct FrameHeaders: Equatable, Sendable {
  public enum Network: Sendable {
    case ipv4
    case ipv6
  }

  @inlinable public static var tcp: UInt8 { @inline(__always) get { 6 } }
  @inlinable public static var udp: UInt8 { @inline(__always) get { 17 } }

  public let network: Network
  /// Byte offset of the IP header.
  public let networkStart: Int
  /// IP protocol number of what follows the IP header and its known extension headers.
  public private(set) var transport: UInt8 = 0
  /// Byte offset of that.
  public private(set) var transportStart: Int
  /// A fragment of a packet: TCP or UDP headers are in the first one only, checksums over all.
  public private(set) var isFragment = false
  /// The source decides on the way (IPv6 routing header, IPv4 LSRR or SSRR): the destination address
  /// may not be the last.
  public private(set) var isSourceRouted = false
  /// Its tags are ordinary ones (IEEE 802.1Q), none that a provider puts around them.
  let hasOrdinaryTags: Bool
  /// Byte offset of the payload of TCP or UDP; nil: neither, or its header is not complete.
  public private(set) var payloadStart: Int?

  /// VLAN tags that are passed over.
  private static let mostTags = 2
  /// Extension headers that are passed over.
  private static let mostExtensions = 8

  /// - Parameters:
  ///   - bytes: the first bytes of a frame, from the Ethernet header on.
  ///   - count: how many.
  /// - Returns: nil if the frame is not IP, or its IP header is wrong or not complete.
  @unsafe public init?(_ bytes: UnsafeRawPointer, count: Int) {
    let reader = unsafe Reader(bytes: bytes, count: count)
    guard var type = reader.word(12) else { return nil }
    var offset = 14
    var tags = 0
    var ordinary = true
    while type == 0x8100 || type == 0x88a8 || type == 0x9100 {
      guard tags < FrameHeaders.mostTags, let inner = reader.word(offset + 2) else { return nil }
      if type != 0x8100 { ordinary = false }
      type = inner
      offset += 4
      tags += 1
    }
    hasOrdinaryTags = ordinary
    networkStart = offset
    transportStart = offset
    switch type {
    case 0x0800:
      network = .ipv4
      guard readIPv4(reader) else { return nil }
    case 0x86dd:
      network = .ipv6
      guard readIPv6(reader) else { return nil }
    default: return nil
    }
    readTransport(reader)
  }

  private mutating func readIPv4(_ reader: Reader) -> Bool {
    guard let first = reader.byte(networkStart), first >> 4 == 4,
      let fragment = reader.word(networkStart + 6), let next = reader.byte(networkStart + 9)
    else { return false }
    let length = Int(first & 15) * 4
    guard length >= 20, reader.has(networkStart + length) else { return false }
    isFragment = fragment & 0x3fff != 0
    transport = next
    transportStart = networkStart + length
    readOptions(reader)
    return true
  }

  /// RFC 791, 3.1.
  private mutating func readOptions(_ reader: Reader) {
    var offset = networkStart + 20
    while offset < transportStart, let type = reader.byte(offset), type != 0 {
      // Loose and strict source routing.
      if type == 131 || type == 137 { isSourceRouted = true }
      // No operation is the only one without a length.
      let length = type == 1 ? 1 : Int(reader.byte(offset + 1) ?? 0)
      guard length > 0 else { return }
      offset += length
    }
  }

  private mutating func readIPv6(_ reader: Reader) -> Bool {
    guard let first = reader.byte(networkStart), first >> 4 == 6,
      var next = reader.byte(networkStart + 6), reader.has(networkStart + 40)
    else { return false }
    var offset = networkStart + 40
    var extensions = 0
    // Hop-by-hop options, routing, fragment, destination options (RFC 8200, 4).
    while next == 0 || next == 43 || next == 44 || next == 60 {
      guard extensions < FrameHeaders.mostExtensions, let following = reader.byte(offset),
        let units = reader.byte(offset + 1), reader.has(offset + 8)
      else { return false }
      if next == 43, reader.byte(offset + 3) != 0 { isSourceRouted = true }
      if next == 44 { isFragment = true }
      offset += next == 44 ? 8 : (Int(units) + 1) * 8
      guard reader.has(offset) else { return false }
      next = following
      extensions += 1
    }
    transport = next
    transportStart = offset
    return true
  }

  private mutating func readTransport(_ reader: Reader) {
    guard !isFragment else { return }
    switch transport {
    case FrameHeaders.tcp:
      guard let units = reader.byte(transportStart + 12) else { return }
      let length = Int(units >> 4) * 4
      if length >= 20, reader.has(transportStart + length) {
        payloadStart = transportStart + length
      }
    case FrameHeaders.udp:
      if reader.has(transportStart + 8) { payloadStart = transportStart + 8 }
    default: break
    }
  }

  /// Reads nothing beyond `count`.
  @safe
  private struct Reader {
    let bytes: UnsafeRawPointer
    let count: Int

    init(bytes: UnsafeRawPointer, count: Int) {
      unsafe self.bytes = bytes
      self.count = count
    }

    func has(_ end: Int) -> Bool { end <= count }

    func byte(_ offset: Int) -> UInt8? {
      guard offset < count else { return nil }
      return unsafe bytes.load(fromByteOffset: offset, as: UInt8.self)
    }

    /// In host byte order.
    func word(_ offset: Int) -> UInt16? {
      guard offset + 2 <= count else { return nil }
      return unsafe UInt16(
        bigEndian: bytes.loadUnaligned(fromByteOffset: offset, as: UInt16.self))
    }
  }
}
