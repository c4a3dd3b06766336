// struct virtio_net_hdr (virtio 1.3, 5.1.6): what stands before every packet on a virtqueue.
//
// 12 bytes with VERSION_1 or MRG_RXBUF, else 10 (legacy, without num_buffers):
//   flags 1, gso_type 1, hdr_len 2, gso_size 2, csum_start 2, csum_offset 2 [, num_buffers 2]
// Little-endian; a legacy driver uses the guest's byte order, which is the same here.

/// A header as a value: taken from guest memory once, then looked at here.
@frozen
public struct VirtioNetHeader: Equatable, Sendable {
  public var flags: UInt8
  public var gsoType: UInt8
  public var headerLength: UInt16
  public var gsoSize: UInt16
  public var checksumStart: UInt16
  public var checksumOffset: UInt16
  public var bufferCount: UInt16

  /// Bytes with `num_buffers`.
  public static let modernLength = 12
  /// Bytes without.
  public static let legacyLength = 10

  /// Of `flags`: the checksum is to be filled in.
  public static let needsChecksum: UInt8 = 1
  @usableFromInline static let gsoNone: UInt8 = 0
  static let gsoECN: UInt8 = 0x80
  static let gsoTCP4: UInt8 = 1
  static let gsoTCP6: UInt8 = 4
  static let gsoUDP: UInt8 = 5

  /// From the first 8 bytes and the rest, as little-endian words.
  @inlinable @inline(__always)
  public init(low: UInt64, high: UInt32) {
    flags = UInt8(truncatingIfNeeded: low)
    gsoType = UInt8(truncatingIfNeeded: low &>> 8)
    headerLength = UInt16(truncatingIfNeeded: low &>> 16)
    gsoSize = UInt16(truncatingIfNeeded: low &>> 32)
    checksumStart = UInt16(truncatingIfNeeded: low &>> 48)
    checksumOffset = UInt16(truncatingIfNeeded: high)
    bufferCount = UInt16(truncatingIfNeeded: high &>> 16)
  }

  /// As above.
  @inlinable @inline(__always)
  public init(_ words: (low: UInt64, high: UInt32)) { self.init(low: words.low, high: words.high) }

  /// The first 8 bytes and the rest, as little-endian words.
  public var words: (low: UInt64, high: UInt32) {
    let low =
      UInt64(flags) | UInt64(gsoType) &<< 8 | UInt64(headerLength) &<< 16 | UInt64(gsoSize) &<< 32
      | UInt64(checksumStart) &<< 48
    return (low, UInt32(checksumOffset) | UInt32(bufferCount) &<< 16)
  }

  /// A transmit packet that wants nothing done: no checksum to fill in, no segmentation.
  @inlinable
  public var isPlain: Bool {
    @inline(__always) get {
      flags & VirtioNetHeader.needsChecksum == 0 && gsoType == VirtioNetHeader.gsoNone
    }
  }

  /// NEEDS_CSUM: the packet's checksum is to be filled in.
  @inlinable
  public var needsChecksumFilled: Bool { flags & VirtioNetHeader.needsChecksum != 0 }

  /// A checksum is to be filled in, and nothing else done.
  @inlinable
  public var wantsChecksumOnly: Bool {
    @inline(__always) get {
      flags & VirtioNetHeader.needsChecksum != 0 && gsoType == VirtioNetHeader.gsoNone
    }
  }

  /// The packet is to be cut.
  @inlinable
  public var isSegmented: Bool { gsoType != VirtioNetHeader.gsoNone }

  /// How a packet is to be cut.
  public enum SegmentationType: Sendable {
    case tcp4
    case tcp6
    /// UDP over either IP (GSO_UDP_L4).
    case udp
  }

  /// What gso_type says, without its ECN bit; nil: not to be cut, or a type that is not known here.
  public var segmentationType: SegmentationType? {
    switch gsoType & ~VirtioNetHeader.gsoECN {
    case 1: .tcp4
    case 4: .tcp6
    case 5: .udp
    default: nil
    }
  }

  /// gso_type has the ECN bit: the packet's CWR is set.
  public var marksECN: Bool { gsoType & VirtioNetHeader.gsoECN != 0 }

  /// The last four bytes of a received packet's header that only says `num_buffers`; the eight
  /// before them are 0.
  @inlinable @inline(__always)
  public static func receivedTail(bufferCount: UInt16) -> UInt32 { UInt32(bufferCount) &<< 16 }

  /// The first eight bytes of the header of a received packet that is not merged.
  /// - Parameter isVerified: its checksum was found right (DATA_VALID).
  @inlinable @inline(__always)
  public static func receivedHead(isVerified: Bool) -> UInt64 { isVerified ? 2 : 0 }
}
