// A packet that the guest leaves to the device to cut (virtio 1.3, 5.1.6.2): TCP (TSO) or UDP (USO)
// with a payload of many segments, each of which becomes a packet with the headers of the large one.
//
// What changes from segment to segment is told by RFC 9293 and the kernel's own segmentation, which a
// test compares byte by byte:
//   IPv4   total length, identification + 1, header checksum
//   IPv6   payload length
//   TCP    sequence number, FIN and PSH in the last one only, CWR in the first one only, checksum
//   UDP    length, checksum
// The pseudo-header is summed anew: what the guest left in the checksum field is not looked at, nor
// are its lengths and `hdr_len`.

public struct Segmentation: Equatable, Sendable {
  public let headers: FrameHeaders
  /// Bytes before the payload: the headers of each segment.
  public let headerLength: Int
  /// Bytes of payload in all.
  public let payloadLength: Int
  /// Bytes of payload in each segment but the last.
  public let segmentSize: Int
  /// At least 1.
  public let count: Int

  /// - Parameters:
  ///   - header: of the packet, with a gso_type.
  ///   - headers: what the packet is.
  ///   - length: bytes of the packet.
  /// - Returns: nil if the header and the packet contradict each other, or the packet is none that
  ///   can be cut.
  public init?(_ header: VirtioNetHeader, of headers: FrameHeaders, length: Int) {
    guard header.needsChecksumFilled, header.gsoSize > 0, !headers.isSourceRouted,
      let payloadStart = headers.payloadStart, payloadStart <= length,
      ChecksumOffload(header, of: headers, length: length)?.start == headers.transportStart
    else { return nil }
    switch header.segmentationType {
    case .tcp4:
      guard headers.network == .ipv4, headers.transport == FrameHeaders.tcp else { return nil }
    case .tcp6:
      guard headers.network == .ipv6, headers.transport == FrameHeaders.tcp else { return nil }
    case .udp: guard headers.transport == FrameHeaders.udp else { return nil }
    case nil: return nil
    }
    self.headers = headers
    headerLength = payloadStart
    payloadLength = length - payloadStart
    segmentSize = Int(header.gsoSize)
    guard payloadStart - headers.networkStart + min(segmentSize, payloadLength) <= 65535 else {
      return nil
    }
    count = max(1, (payloadLength + segmentSize - 1) / segmentSize)
  }

  /// Bytes of the longest segment, with its headers.
  public var longest: Int { headerLength + min(segmentSize, payloadLength) }

  /// Byte offset of the checksum in the TCP or UDP header.
  public var checksumOffset: Int { headers.transport == FrameHeaders.tcp ? 16 : 6 }

  /// Bytes of payload in segment `index`.
  public func payload(of index: Int) -> Int {
    min(segmentSize, payloadLength - index * segmentSize)
  }

  /// Writes the headers of segment `index`, `headerLength` bytes.
  /// - Parameters:
  ///   - template: those of the packet.
  ///   - payloadSum: `InternetChecksum` of the segment's payload, as if it began at an even place;
  ///     nil: the field gets the sum of the pseudo-header alone, for a device to go on with.
  @unsafe public func writeHeaders(
    of index: Int, from template: UnsafeRawPointer, payloadSum: UInt64?,
    to destination: UnsafeMutableRawPointer
  ) {
    unsafe destination.copyMemory(from: template, byteCount: headerLength)
    let payload = payload(of: index)
    let network = unsafe destination + headers.networkStart
    let transport = unsafe destination + headers.transportStart
    let transportLength = headerLength - headers.transportStart + payload
    switch headers.network {
    case .ipv4: unsafe patchIPv4(network, index, payload)
    case .ipv6:
      unsafe store(headerLength - headers.networkStart - 40 + payload, at: network + 4)
    }
    let isTCP = headers.transport == FrameHeaders.tcp
    if isTCP {
      unsafe patchTCP(transport, index)
    } else {
      unsafe store(transportLength, at: transport + 4)
    }
    let field = unsafe transport + checksumOffset
    guard let payloadSum else {
      let sum = unsafe pseudoHeader(network, transportLength)
      unsafe field.storeBytes(of: InternetChecksum.fold(sum), as: UInt16.self)
      return
    }
    unsafe store(0, at: field)
    let sum =
      unsafe payloadSum
      &+ InternetChecksum.sum(transport, count: headerLength - headers.transportStart)
      &+ pseudoHeader(network, transportLength)
    unsafe field.storeBytes(
      of: isTCP ? InternetChecksum.checksum(sum) : InternetChecksum.nonzeroChecksum(sum),
      as: UInt16.self)
  }

  // MARK: uncut

  /// The lengths of the whole packet fit their fields.
  public var fitsUncut: Bool { headerLength - headers.networkStart + payloadLength <= 65535 }

  /// For who cuts it in our place (`fitsUncut`): what it is, in words of ours.
  /// - Parameter template: the packet's headers.
  @unsafe public func uncutHeader(_ template: UnsafeRawPointer) -> VirtioNetHeader {
    let isTCP = headers.transport == FrameHeaders.tcp
    var type: UInt8 = !isTCP ? 5 : headers.network == .ipv4 ? 1 : 4
    // CWR: a card must take it out of the segments that follow.
    if isTCP {
      let flags = unsafe template.load(
        fromByteOffset: headers.transportStart + 13, as: UInt8.self)
      if flags & 0x80 != 0 { type |= VirtioNetHeader.gsoECN }
    }
    var header = VirtioNetHeader(low: 0, high: 0)
    header.flags = VirtioNetHeader.needsChecksum
    header.gsoType = type
    header.headerLength = UInt16(headerLength)
    header.gsoSize = UInt16(segmentSize)
    header.checksumStart = UInt16(headers.transportStart)
    header.checksumOffset = isTCP ? 16 : 6
    return header
  }

  /// Writes the headers of the whole packet (`fitsUncut`), `headerLength` bytes: lengths, IPv4 header
  /// checksum and the sum of the pseudo-header are ours, whatever the guest has left there.
  /// - Parameter template: those of the packet.
  @unsafe public func writeUncutHeaders(
    from template: UnsafeRawPointer, to destination: UnsafeMutableRawPointer
  ) {
    unsafe destination.copyMemory(from: template, byteCount: headerLength)
    let network = unsafe destination + headers.networkStart
    let transport = unsafe destination + headers.transportStart
    let transportLength = headerLength - headers.transportStart + payloadLength
    switch headers.network {
    case .ipv4: unsafe patchIPv4(network, 0, payloadLength)
    case .ipv6:
      unsafe store(headerLength - headers.networkStart - 40 + payloadLength, at: network + 4)
    }
    let isTCP = headers.transport == FrameHeaders.tcp
    if !isTCP { unsafe store(transportLength, at: transport + 4) }
    let sum = unsafe InternetChecksum.fold(pseudoHeader(network, transportLength))
    unsafe (transport + (isTCP ? 16 : 6)).storeBytes(of: sum, as: UInt16.self)
  }

  private func patchIPv4(_ header: UnsafeMutableRawPointer, _ index: Int, _ payload: Int) {
    unsafe store(headerLength - headers.networkStart + payload, at: header + 2)
    let identification = unsafe UInt16(
      bigEndian: (header + 4).loadUnaligned(as: UInt16.self))
    unsafe store(Int(identification &+ UInt16(truncatingIfNeeded: index)), at: header + 4)
    unsafe store(0, at: header + 10)
    let sum = unsafe InternetChecksum.sum(
      header, count: headers.transportStart - headers.networkStart)
    unsafe (header + 10).storeBytes(of: InternetChecksum.checksum(sum), as: UInt16.self)
  }

  private func patchTCP(_ header: UnsafeMutableRawPointer, _ index: Int) {
    let sequence = unsafe UInt32(bigEndian: (header + 4).loadUnaligned(as: UInt32.self))
    let own = sequence &+ UInt32(truncatingIfNeeded: index * segmentSize)
    unsafe (header + 4).storeBytes(of: own.bigEndian, as: UInt32.self)
    var flags = unsafe header.load(fromByteOffset: 13, as: UInt8.self)
    if index < count - 1 { flags &= ~0x09 }
    if index > 0 { flags &= ~0x80 }
    unsafe header.storeBytes(of: flags, toByteOffset: 13, as: UInt8.self)
  }

  private func pseudoHeader(_ header: UnsafeRawPointer, _ length: Int) -> UInt64 {
    let addresses =
      switch headers.network {
      case .ipv4: unsafe InternetChecksum.sum(header + 12, count: 8)
      case .ipv6: unsafe InternetChecksum.sum(header + 8, count: 32)
      }
    return addresses &+ InternetChecksum.word(UInt16(headers.transport))
      &+ InternetChecksum.word(UInt16(truncatingIfNeeded: length))
  }

  /// 16 bits in network byte order.
  private func store(_ value: Int, at destination: UnsafeMutableRawPointer) {
    unsafe destination.storeBytes(
      of: UInt16(truncatingIfNeeded: value).bigEndian, as: UInt16.self)
  }
}
