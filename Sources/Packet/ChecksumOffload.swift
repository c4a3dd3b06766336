// A checksum that the guest leaves to the device (virtio 1.3, 5.1.6.2, VIRTIO_NET_HDR_F_NEEDS_CSUM):
// over everything from `csum_start` to the end of the packet, stored `csum_offset` bytes behind that.
// The field holds the sum of the pseudo-header, which so becomes part of the total.

@frozen
public struct ChecksumOffload: Equatable, Sendable {
  /// Byte offset of the first byte that is summed.
  public let start: Int
  /// Byte offset of the checksum.
  public let field: Int

  /// - Parameters:
  ///   - header: of the packet, with NEEDS_CSUM.
  ///   - headers: what the packet is; nil: no IP packet that is understood, as is that of a guest
  ///     which encapsulates.
  ///   - length: bytes of the packet.
  /// - Returns: nil if the header and the packet contradict each other.
  public init?(_ header: VirtioNetHeader, of headers: FrameHeaders?, length: Int) {
    start = Int(header.checksumStart)
    field = start + Int(header.checksumOffset)
    guard start >= 14, field + 2 <= length else { return nil }
    guard let headers else { return }
    // Behind it: the transport of a packet inside this one.
    guard start >= headers.transportStart, !headers.isFragment else { return nil }
    guard start == headers.transportStart else { return }
    switch headers.transport {
    case FrameHeaders.tcp: guard header.checksumOffset == 16 else { return nil }
    case FrameHeaders.udp: guard header.checksumOffset == 6 else { return nil }
    default: break
    }
  }

  /// What is stored for the sum over all that is to be summed.  Of UDP it is never 0, which says that
  /// there is no checksum (RFC 768); elsewhere 0 is the only right one of the two zeroes (RFC 1624).
  @inlinable @inline(__always)
  public func checksum(of sum: UInt64) -> UInt16 {
    field &- start == 6 ? InternetChecksum.nonzeroChecksum(sum) : InternetChecksum.checksum(sum)
  }
}
