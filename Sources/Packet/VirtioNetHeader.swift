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

  @usableFromInline static let needsChecksum: UInt8 = 1
  @usableFromInline static let gsoNone: UInt8 = 0

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

  /// A transmit packet that wants nothing done: no checksum to fill in, no segmentation.
  @inlinable
  public var isPlain: Bool {
    @inline(__always) get {
      flags & VirtioNetHeader.needsChecksum == 0 && gsoType == VirtioNetHeader.gsoNone
    }
  }

  /// The last four bytes of a received packet's header that only says `num_buffers`; the eight
  /// before them are 0.
  @inlinable @inline(__always)
  public static func receivedTail(bufferCount: UInt16) -> UInt32 { UInt32(bufferCount) &<< 16 }
}
