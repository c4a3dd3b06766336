// Which received TCP and UDP packets may become one (what network stacks call GRO), and the headers
// of that one.
//
// The rule behind all rules: whoever cuts the merged packet again, by the device's rules for a
// guest's own (Segmentation.swift), gets the packets that came from the wire, byte for byte.  So they
// must have the same headers but for what cutting makes anew:
//   IPv4   total length, identification + 1 each, header checksum
//   IPv6   payload length
//   TCP    sequence number, PSH in the last one only, CWR in the first one only, checksum
//   UDP    length, checksum
// An IPv4 identification that stays the same is taken too where DF says that it means nothing
// (RFC 6864, 4.1).  Their checksums must be right: a merged packet promises it.
//
// Hostile: every byte of the packets.  Nobody else writes them meanwhile, so they are read where they
// are; each length is checked against how many bytes there are before anything behind it is read.

/// What packets may be merged, as a driver takes them.
@frozen
public struct MergeKinds: OptionSet, Sendable, BitwiseCopyable {
  public let rawValue: UInt8
  @inlinable @inline(__always)
  public init(rawValue: UInt8) { self.rawValue = rawValue }

  @inlinable public static var tcp4: MergeKinds { MergeKinds(rawValue: 1) }
  @inlinable public static var tcp6: MergeKinds { MergeKinds(rawValue: 2) }
  @inlinable public static var udp4: MergeKinds { MergeKinds(rawValue: 4) }
  @inlinable public static var udp6: MergeKinds { MergeKinds(rawValue: 8) }
  /// TCP whose first segment has CWR.
  @inlinable public static var ecn: MergeKinds { MergeKinds(rawValue: 16) }

  @inlinable static var tcp: MergeKinds { [.tcp4, .tcp6] }
  @inlinable static var ipv4: MergeKinds { [.tcp4, .udp4] }
}

/// A received TCP or UDP packet, as far as merging looks at it.
@frozen
public struct ReceivedSegment: Sendable, BitwiseCopyable {
  /// One of those that were wanted.
  public let kind: MergeKinds
  /// Of TCP; else 0.
  public let flags: UInt8
  /// Packets with the same addresses and ports have the same; others seldom have.
  public let slot: UInt8
  /// Byte offsets of the IP header, of the transport header, and of the payload.
  @usableFromInline let networkStart: UInt8
  @usableFromInline let transportStart: UInt8
  public let headerLength: UInt8
  /// Bytes of payload, without what Ethernet may have added behind it.
  public let payloadLength: UInt16
  /// Of TCP; else 0.
  public let sequence: UInt32

  /// Values of `slot` are below.
  public static let slotCount = 256
  /// Most bytes of a merged packet: what both length fields of IP can say, and drivers without
  /// mergeable buffers have room for.
  public static let largestPacket = 65535

  /// What the first bytes of a frame are.
  @frozen
  public enum Look {
    /// Nothing that a wanted packet could overtake.
    case foreign
    /// It may belong to any flow, but it is none that is understood here: a fragment, options,
    /// lengths that are wrong.
    case unclear
    case segment(ReceivedSegment)
  }

  @usableFromInline static let finish: UInt8 = 0x01
  @usableFromInline static let synchronize: UInt8 = 0x02
  @usableFromInline static let reset: UInt8 = 0x04
  @usableFromInline static let push: UInt8 = 0x08
  @usableFromInline static let urgent: UInt8 = 0x20
  @usableFromInline static let congestionWindowReduced: UInt8 = 0x80

  @inlinable @inline(__always)
  init(
    kind: MergeKinds, flags: UInt8, slot: UInt8, networkStart: Int, transportStart: Int,
    headerLength: Int, payloadLength: Int, sequence: UInt32
  ) {
    self.kind = kind
    self.flags = flags
    self.slot = slot
    self.networkStart = UInt8(truncatingIfNeeded: networkStart)
    self.transportStart = UInt8(truncatingIfNeeded: transportStart)
    self.headerLength = UInt8(truncatingIfNeeded: headerLength)
    self.payloadLength = UInt16(truncatingIfNeeded: payloadLength)
    self.sequence = sequence
  }

  /// Of a place for one.
  public static var nothing: ReceivedSegment {
    ReceivedSegment(
      kind: [], flags: 0, slot: 0, networkStart: 0, transportStart: 0, headerLength: 0,
      payloadLength: 0, sequence: 0)
  }

  /// - Parameters:
  ///   - frame: its bytes, from the Ethernet header on.
  ///   - count: how many.
  ///   - wanted: other packets are foreign.
  @unsafe @inlinable @inline(__always)
  public static func look(
    at frame: UnsafeRawPointer, count: Int, wanted: MergeKinds
  ) -> Look {
    // The last fragment of a datagram may be as short as that.
    guard count >= 42 else { return count > 34 ? .unclear : .foreign }
    var network = 14
    var type = unsafe frame.word(12)
    // Two VLAN tags at most.
    if type == 0x8100 || type == 0x88a8 {
      type = unsafe frame.word(16)
      network = 18
      if type == 0x8100 {
        type = unsafe frame.word(20)
        network = 22
      }
    }
    if type == 0x0800 {
      guard count >= network &+ 28 else { return .unclear }
      let number = unsafe frame.byte(network &+ 9)
      let kind: MergeKinds = number == 6 ? .tcp4 : number == 17 ? .udp4 : []
      guard !kind.isDisjoint(with: wanted) else { return .foreign }
      // No options, and no fragment.
      guard unsafe frame.byte(network) == 0x45, unsafe frame.word(network &+ 6) & 0xbfff == 0
      else { return .unclear }
      let total = unsafe Int(frame.word(network &+ 2))
      guard total >= 28, total <= count &- network else { return .unclear }
      return unsafe transport(
        frame, kind, network: network, transport: network &+ 20, length: total &- 20,
        flow: frame.loadUnaligned(fromByteOffset: network &+ 12, as: UInt64.self), wanted)
    }
    if type == 0x86dd {
      guard count >= network &+ 48 else { return .foreign }
      let number = unsafe frame.byte(network &+ 6)
      let kind: MergeKinds = number == 6 ? .tcp6 : number == 17 ? .udp6 : []
      guard !kind.isDisjoint(with: wanted) else {
        // Anything may be behind an extension header.
        return !kind.isEmpty || number == 58 || number == 50 ? .foreign : .unclear
      }
      let length = unsafe Int(frame.word(network &+ 4))
      guard unsafe frame.byte(network) &>> 4 == 6, length >= 8, length <= count &- network &- 40
      else { return .unclear }
      let addresses =
        unsafe frame.loadUnaligned(fromByteOffset: network &+ 8, as: SIMD4<UInt64>.self)
      return unsafe transport(
        frame, kind, network: network, transport: network &+ 40, length: length,
        flow: addresses.x ^ addresses.y ^ (addresses.z ^ addresses.w) &* 3, wanted)
    }
    return .foreign
  }

  @unsafe @inlinable @inline(__always)
  static func transport(
    _ frame: UnsafeRawPointer, _ kind: MergeKinds, network: Int, transport: Int, length: Int,
    flow: UInt64, _ wanted: MergeKinds
  ) -> Look {
    let ports = unsafe frame.loadUnaligned(fromByteOffset: transport, as: UInt32.self)
    // The upper bits of a product depend on all of its factors.
    let hash = (flow ^ UInt64(ports) &* 0x1_0000_01b3) &* 0x9e37_79b9_7f4a_7c15
    let slot = UInt8(truncatingIfNeeded: hash &>> 56)
    if kind.isDisjoint(with: .tcp) {
      guard unsafe Int(frame.word(transport &+ 4)) == length else { return .unclear }
      return .segment(
        ReceivedSegment(
          kind: kind, flags: 0, slot: slot, networkStart: network, transportStart: transport,
          headerLength: transport &+ 8, payloadLength: length &- 8, sequence: 0))
    }
    guard length >= 20 else { return .unclear }
    let own = unsafe Int(frame.byte(transport &+ 12) &>> 4) &* 4
    guard own >= 20, own <= length else { return .unclear }
    return unsafe .segment(
      ReceivedSegment(
        kind: kind, flags: frame.byte(transport &+ 13), slot: slot, networkStart: network,
        transportStart: transport, headerLength: transport &+ own, payloadLength: length &- own,
        sequence: UInt32(
          bigEndian: frame.loadUnaligned(fromByteOffset: transport &+ 4, as: UInt32.self))))
  }

  @inlinable
  public var isTCP: Bool { @inline(__always) get { !kind.isDisjoint(with: .tcp) } }
  @inlinable
  public var isIPv4: Bool { @inline(__always) get { !kind.isDisjoint(with: .ipv4) } }

  /// Others may follow it in a merged packet.
  @inlinable @inline(__always)
  public func mayLead(_ wanted: MergeKinds) -> Bool {
    let unfit: UInt8 =
      ReceivedSegment.finish | ReceivedSegment.synchronize
      | ReceivedSegment.reset | ReceivedSegment.push | ReceivedSegment.urgent
    return payloadLength > 0 && flags & unfit == 0
      && (flags & ReceivedSegment.congestionWindowReduced == 0 || wanted.contains(.ecn))
  }

  /// It may follow others.
  @inlinable
  public var mayFollow: Bool {
    @inline(__always) get {
      let unfit: UInt8 =
        ReceivedSegment.finish | ReceivedSegment.synchronize
        | ReceivedSegment.reset | ReceivedSegment.urgent
        | ReceivedSegment.congestionWindowReduced
      return payloadLength > 0 && flags & unfit == 0
    }
  }

  /// Nothing follows it: PSH.
  @inlinable
  public var isPushed: Bool {
    @inline(__always) get { flags & ReceivedSegment.push != 0 }
  }

  /// In host byte order; only of IPv4.
  @unsafe @inlinable @inline(__always)
  public func identification(_ frame: UnsafeRawPointer) -> UInt16 {
    unsafe frame.word(Int(networkStart) &+ 4)
  }

  /// DF; only of IPv4.
  @unsafe @inlinable @inline(__always)
  public func isUnfragmentable(_ frame: UnsafeRawPointer) -> Bool {
    unsafe frame.byte(Int(networkStart) &+ 6) & 0x40 != 0
  }

  /// Whether `frame`, which is this, has the headers of `other` but for lengths, checksums, sequence
  /// number and identification, and for flags that the caller looks at (PSH, CWR).
  @unsafe @inlinable
  public func hasHeaders(
    _ frame: UnsafeRawPointer, of other: ReceivedSegment, _ otherFrame: UnsafeRawPointer
  ) -> Bool {
    guard kind == other.kind, networkStart == other.networkStart,
      headerLength == other.headerLength
    else { return false }
    let network = Int(networkStart)
    let transport = Int(transportStart)
    // Ethernet and its tags: 14, 18 or 22 bytes.
    var different = unsafe frame.differs64(otherFrame, 0) | frame.differs64(otherFrame, 6)
    unsafe different |= frame.differs64(otherFrame, network &- 8)
    if isIPv4 {
      // Version, length, type of service; flags; time to live and protocol; addresses.
      unsafe different |= frame.differs16(otherFrame, network)
      unsafe different |= frame.differs32(otherFrame, network &+ 6)
      unsafe different |= frame.differs64(otherFrame, network &+ 12)
    } else {
      // Version, traffic class, flow label; next header and hop limit; addresses.
      unsafe different |= frame.differs32(otherFrame, network)
      unsafe different |= frame.differs16(otherFrame, network &+ 6)
      for i in 1..<5 { unsafe different |= frame.differs64(otherFrame, network &+ 8 &* i) }
    }
    // Ports.
    unsafe different |= frame.differs32(otherFrame, transport)
    if isTCP {
      let ignored = ReceivedSegment.push | ReceivedSegment.congestionWindowReduced
      different |= UInt64((flags ^ other.flags) & ~ignored)
      // Acknowledgement; length; window; urgent pointer; options.
      unsafe different |= frame.differs32(otherFrame, transport &+ 8)
      different |= unsafe UInt64(
        frame.byte(transport &+ 12) ^ otherFrame.byte(transport &+ 12))
      unsafe different |= frame.differs16(otherFrame, transport &+ 14)
      unsafe different |= frame.differs16(otherFrame, transport &+ 18)
      var option = transport &+ 20
      while option < Int(headerLength) {
        unsafe different |= frame.differs32(otherFrame, option)
        option &+= 4
      }
    }
    return different == 0
  }
}

extension UnsafeRawPointer {
  @unsafe @inlinable @inline(__always)
  func byte(_ offset: Int) -> UInt8 { unsafe load(fromByteOffset: offset, as: UInt8.self) }

  /// In host byte order.
  @unsafe @inlinable @inline(__always)
  func word(_ offset: Int) -> UInt16 {
    unsafe UInt16(bigEndian: loadUnaligned(fromByteOffset: offset, as: UInt16.self))
  }

  /// Not 0 if the 16, 32 or 64 bits at `offset` are others there.
  @unsafe @inlinable @inline(__always)
  func differs16(_ other: UnsafeRawPointer, _ offset: Int) -> UInt64 {
    unsafe UInt64(
      loadUnaligned(fromByteOffset: offset, as: UInt16.self)
        ^ other.loadUnaligned(fromByteOffset: offset, as: UInt16.self))
  }
  @unsafe @inlinable @inline(__always)
  func differs32(_ other: UnsafeRawPointer, _ offset: Int) -> UInt64 {
    unsafe UInt64(
      loadUnaligned(fromByteOffset: offset, as: UInt32.self)
        ^ other.loadUnaligned(fromByteOffset: offset, as: UInt32.self))
  }
  @unsafe @inlinable @inline(__always)
  func differs64(_ other: UnsafeRawPointer, _ offset: Int) -> UInt64 {
    unsafe loadUnaligned(fromByteOffset: offset, as: UInt64.self)
      ^ other.loadUnaligned(fromByteOffset: offset, as: UInt64.self)
  }
}
