// The headers of a merged packet, and what has to be checked before there may be one.
//
// What is written is what virtio 1.3, 5.1.6.4 wants of a packet with NEEDS_CSUM and a gso_type: the
// lengths of all, and the sum of the pseudo-header in the checksum field.  It can be undone, since
// everything else is as it came: a driver may turn out to have no room for a merged packet.

extension ReceivedSegment {
  /// Whether the checksums of `frame`, which is this, are there and right.
  @unsafe
  public func isIntact(_ frame: UnsafeRawPointer) -> Bool {
    let network = unsafe frame + Int(networkStart)
    let transport = unsafe frame + Int(transportStart)
    if isIPv4, unsafe InternetChecksum.fold(InternetChecksum.sum(network, count: 20)) != 0xffff {
      return false
    }
    // UDP without a checksum says so by 0.
    if !isTCP, unsafe transport.word(6) == 0 { return false }
    let length = Int(headerLength &- transportStart) &+ Int(payloadLength)
    let sum =
      unsafe InternetChecksum.sum(transport, count: length) &+ pseudoHeader(network, length)
    return InternetChecksum.fold(sum) == 0xffff
  }

  /// Turns the headers of `frame`, which is this and comes first, into those of a merged packet.
  /// - Parameters:
  ///   - payload: bytes in all.
  ///   - pushed: the last one has PSH.
  @unsafe
  public func mergeHeaders(_ frame: UnsafeMutableRawPointer, payload: Int, pushed: Bool) {
    let length = unsafe setLengths(frame, payload: payload)
    let transport = unsafe frame + Int(transportStart)
    if isTCP, pushed {
      unsafe transport.storeBytes(
        of: flags | ReceivedSegment.push, toByteOffset: 13, as: UInt8.self)
    }
    // What NEEDS_CSUM has there: the sum of the pseudo-header, not complemented.
    let sum = unsafe pseudoHeader(frame + Int(networkStart), length)
    unsafe transport.storeBytes(
      of: InternetChecksum.fold(sum), toByteOffset: isTCP ? 16 : 6, as: UInt16.self)
  }

  /// Undoes `mergeHeaders`.
  @unsafe
  public func restoreHeaders(_ frame: UnsafeMutableRawPointer) {
    let length = unsafe setLengths(frame, payload: Int(payloadLength))
    let transport = unsafe frame + Int(transportStart)
    if isTCP {
      // A packet that others follow has no PSH.
      unsafe transport.storeBytes(
        of: flags & ~ReceivedSegment.push, toByteOffset: 13, as: UInt8.self)
    }
    let field = unsafe transport + (isTCP ? 16 : 6)
    unsafe field.storeBytes(of: 0, as: UInt16.self)
    let sum =
      unsafe InternetChecksum.sum(transport, count: length)
      &+ pseudoHeader(frame + Int(networkStart), length)
    unsafe field.storeBytes(
      of: isTCP ? InternetChecksum.checksum(sum) : InternetChecksum.nonzeroChecksum(sum),
      as: UInt16.self)
  }

  /// - Returns: bytes of the transport header and `payload`.
  private func setLengths(_ frame: UnsafeMutableRawPointer, payload: Int) -> Int {
    let network = unsafe frame + Int(networkStart)
    let length = Int(headerLength &- transportStart) &+ payload
    if isIPv4 {
      unsafe network.store(length &+ 20, at: 2)
      unsafe network.storeBytes(of: 0, toByteOffset: 10, as: UInt16.self)
      let sum = unsafe InternetChecksum.sum(network, count: 20)
      unsafe network.storeBytes(
        of: InternetChecksum.checksum(sum), toByteOffset: 10, as: UInt16.self)
    } else {
      unsafe network.store(length, at: 4)
    }
    if !isTCP { unsafe (frame + Int(transportStart)).store(length, at: 4) }
    return length
  }

  private func pseudoHeader(_ network: UnsafeRawPointer, _ length: Int) -> UInt64 {
    let addresses =
      unsafe isIPv4
      ? InternetChecksum.sum(network + 12, count: 8)
      : InternetChecksum.sum(network + 8, count: 32)
    return addresses &+ InternetChecksum.word(UInt16(isTCP ? FrameHeaders.tcp : FrameHeaders.udp))
      &+ InternetChecksum.word(UInt16(truncatingIfNeeded: length))
  }
}

extension ReceivedSegment {
  /// The first of the packets that were merged, whose headers are already those of all.
  /// - Parameters:
  ///   - frame: its bytes, from the Ethernet header on.
  ///   - count: how many are its own.
  /// - Returns: nil if it is no such packet.
  @unsafe
  public init?(merged frame: UnsafeRawPointer, count: Int) {
    guard let headers = unsafe FrameHeaders(frame, count: count), let start = headers.payloadStart
    else { return nil }
    let isTCP = headers.transport == FrameHeaders.tcp
    let kind: MergeKinds =
      switch headers.network {
      case .ipv4: isTCP ? .tcp4 : .udp4
      case .ipv6: isTCP ? .tcp6 : .udp6
      }
    self.init(
      kind: kind, flags: isTCP ? unsafe frame.byte(headers.transportStart &+ 13) : 0, slot: 0,
      networkStart: headers.networkStart, transportStart: headers.transportStart,
      headerLength: start, payloadLength: count &- start, sequence: 0)
  }

  /// The virtio-net header of the merged packet (virtio 1.3, 5.1.6.4).
  public var mergedHeader: VirtioNetHeader {
    var header = VirtioNetHeader(low: 0, high: 0)
    header.flags = VirtioNetHeader.needsChecksum
    header.gsoType =
      switch kind {
      case .tcp4: VirtioNetHeader.gsoTCP4
      case .tcp6: VirtioNetHeader.gsoTCP6
      default: VirtioNetHeader.gsoUDP
      }
    if flags & ReceivedSegment.congestionWindowReduced != 0 {
      header.gsoType |= VirtioNetHeader.gsoECN
    }
    header.headerLength = UInt16(headerLength)
    header.gsoSize = payloadLength
    header.checksumStart = UInt16(transportStart)
    header.checksumOffset = isTCP ? 16 : 6
    return header
  }
}

extension UnsafeMutableRawPointer {
  /// 16 bits in network byte order.
  fileprivate func store(_ value: Int, at offset: Int) {
    unsafe storeBytes(
      of: UInt16(truncatingIfNeeded: value).bigEndian, toByteOffset: offset, as: UInt16.self)
  }
}
