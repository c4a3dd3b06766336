// Ethernet addresses, as people write them.

/// A 48-bit Ethernet address, most significant byte first.
public struct MACAddress: Hashable, Sendable, CustomStringConvertible {
  public var bytes: [UInt8]

  /// Six bytes, in the order of the wire; nil for any other count.
  public init?(bytes: some Sequence<UInt8>) {
    let bytes = Array(bytes)
    guard bytes.count == 6 else { return nil }
    self.bytes = bytes
  }

  /// Six pairs of hexadecimal digits, separated by colons or hyphens.
  public init?(_ text: String) {
    let parts = text.split(whereSeparator: { $0 == ":" || $0 == "-" })
    guard parts.count == 6, text.count == 17 else { return nil }
    var bytes: [UInt8] = []
    for part in parts {
      // The number alone would take a sign for a digit.
      guard part.count == 2, part.allSatisfy(\.isHexDigit), let byte = UInt8(part, radix: 16)
      else { return nil }
      bytes.append(byte)
    }
    self.bytes = bytes
  }

  /// The group bit: multicast or broadcast.
  public var isMulticast: Bool { bytes[0] & 1 != 0 }

  public var description: String {
    bytes.map { ($0 < 16 ? "0" : "") + String($0, radix: 16) }.joined(separator: ":")
  }
}
