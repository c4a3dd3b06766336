// The headers of nearly all packets, told in a few instructions: Ethernet with one VLAN tag at most,
// IPv4 without options or IPv6 without extension headers, TCP or UDP, and no fragment.
//
// Whatever is not so plain is not wrong: it is for FrameHeaders, which says the same of these.

@frozen
public struct UsualHeaders: Equatable, Sendable {
  /// Byte offset of the IP header.
  public let networkStart: Int
  /// Byte offset of the TCP or UDP header.
  public let transportStart: Int
  /// Byte offset of the checksum in that header.
  public let checksumOffset: Int

  /// Bytes of the shortest of these packets, of UDP over IPv4; more than is looked at.
  @inlinable static var shortest: Int { @inline(__always) get { 14 + 20 + 8 } }

  /// - Parameters:
  ///   - packet: a private copy of it: nobody else may change it meanwhile.
  ///   - length: bytes of the packet; the transport header may lie beyond.
  /// - Returns: nil if the headers are others.
  @unsafe @inlinable @inline(__always)
  public init?(_ packet: UnsafeRawPointer, length: Int) {
    guard length >= UsualHeaders.shortest else { return nil }
    // Words as they lie in memory.
    var type = unsafe packet.loadUnaligned(fromByteOffset: 12, as: UInt16.self)
    var start = 14
    if type == UInt16(bigEndian: 0x8100) {
      type = unsafe packet.loadUnaligned(fromByteOffset: 16, as: UInt16.self)
      start = 18
    }
    let header = unsafe packet + start
    let next: UInt8
    if type == UInt16(bigEndian: 0x0800) {
      guard unsafe header.load(as: UInt8.self) == 0x45,
        unsafe header.loadUnaligned(fromByteOffset: 6, as: UInt16.self)
          & UInt16(bigEndian: 0x3fff) == 0
      else { return nil }
      next = unsafe header.load(fromByteOffset: 9, as: UInt8.self)
      transportStart = start &+ 20
    } else {
      guard type == UInt16(bigEndian: 0x86dd), unsafe header.load(as: UInt8.self) &>> 4 == 6
      else { return nil }
      next = unsafe header.load(fromByteOffset: 6, as: UInt8.self)
      transportStart = start &+ 40
    }
    networkStart = start
    if next == FrameHeaders.tcp {
      checksumOffset = 16
    } else if next == FrameHeaders.udp {
      checksumOffset = 6
    } else {
      return nil
    }
  }

  /// The lengths in the IP and UDP headers are those of the packet: a device that finds the headers by
  /// itself sums the same bytes.
  /// - Parameter packet: as above, with the checksum field in it.
  @unsafe @inlinable @inline(__always)
  public func fit(_ packet: UnsafeRawPointer, length: Int) -> Bool {
    let isIPv4 = transportStart &- networkStart == 20
    let stated = unsafe UInt16(
      bigEndian: packet.loadUnaligned(
        fromByteOffset: networkStart &+ (isIPv4 ? 2 : 4), as: UInt16.self))
    guard Int(stated) == length &- (isIPv4 ? networkStart : transportStart) else { return false }
    if checksumOffset == 16 { return true }
    let datagram = unsafe UInt16(
      bigEndian: packet.loadUnaligned(fromByteOffset: transportStart &+ 4, as: UInt16.self))
    return Int(datagram) == length &- transportStart
  }
}

extension FrameHeaders {
  /// The headers are plain enough for every device that finds them by itself.
  public var areUsual: Bool {
    networkStart <= 18 && hasOrdinaryTags
      && transportStart - networkStart == (network == .ipv4 ? 20 : 40)
      && !isFragment && (transport == FrameHeaders.tcp || transport == FrameHeaders.udp)
  }
}

extension ChecksumOffload {
  /// Of a packet with the usual headers.
  /// - Returns: nil if what the header says does not fit them.
  @inlinable @inline(__always)
  public init?(_ header: VirtioNetHeader, of headers: UsualHeaders, length: Int) {
    start = Int(header.checksumStart)
    field = start &+ Int(header.checksumOffset)
    guard start == headers.transportStart, Int(header.checksumOffset) == headers.checksumOffset,
      field &+ 2 <= length
    else { return nil }
  }
}
