// What a receive filter looks at: the destination address and the VLAN of an Ethernet frame.
//
// Frames come from a wire, so each byte is anybody's.  The sixteen bytes at the front are taken as
// two words, because that is how the data path reads them, and nothing behind them is looked at
// (IEEE 802.3, 3.2; IEEE 802.1Q, 9.6).

@frozen
public struct FrameAddressing: Equatable, Sendable {
  /// Six bytes in the order of the wire, the first one lowest.
  public let destination: UInt64
  /// The identifier of an 802.1Q tag, 0 to 4095; nil without one.
  public let vlan: UInt16?

  public static let broadcast: UInt64 = 0xffff_ffff_ffff

  /// Bytes that must be readable at a frame; a frame itself may be shorter.
  public static let byteCount = 16
  /// An Ethernet header with a tag.
  @usableFromInline static let taggedLength = 18
  /// 0x8100, as it lies in memory.
  @usableFromInline static let tagType: UInt64 = 0x0081

  /// From the first 16 bytes, as little-endian words.
  /// - Parameter length: of the frame, at least 14.
  @inlinable @inline(__always)
  public init(low: UInt64, high: UInt64, length: Int) {
    destination = low & FrameAddressing.broadcast
    // Behind the addresses: type, and control information if the type says so.
    let type = (high &>> 32) & 0xffff
    if type == FrameAddressing.tagType && length >= FrameAddressing.taggedLength {
      vlan = UInt16(truncatingIfNeeded: high &>> 48).byteSwapped & 0xfff
    } else {
      vlan = nil
    }
  }

  /// The group bit; also of a broadcast.
  @inlinable
  public var isMulticast: Bool { @inline(__always) get { destination & 1 != 0 } }
  @inlinable
  public var isBroadcast: Bool {
    @inline(__always) get { destination == FrameAddressing.broadcast }
  }
}

extension MACAddress {
  /// As `FrameAddressing.destination` has it.
  public var word: UInt64 {
    bytes.enumerated().reduce(0) { $0 | UInt64($1.element) << UInt64(8 * $1.offset) }
  }

  /// A locally administered address that is always the same for the same text.
  public init(madeUpFrom text: String) {
    // FNV-1a: all that is wanted is that different texts seldom meet.
    var hash: UInt64 = 0xcbf2_9ce4_8422_2325
    for byte in text.utf8 { hash = (hash ^ UInt64(byte)) &* 0x100_0000_01b3 }
    bytes = (0..<6).map { UInt8(truncatingIfNeeded: hash >> UInt64(8 * $0)) }
    bytes[0] = bytes[0] & 0xfc | 0x02
  }
}
