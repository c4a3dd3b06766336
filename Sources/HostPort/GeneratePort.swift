// `generate:SIZE` receives frames of one size without end, and drops what is transmitted.
import AFXDP
import Linux
public import Packet

/// An endless source of UDP frames.
public struct GeneratePort: HostPort {
  /// Sizes that can be asked for, in bytes of the frame without FCS.
  public static let sizes = 60...9014

  public let name: String
  public let capabilities: PortCapabilities
  private let geometry: FrameGeometry
  private let source: FrameSource

  /// - Parameters:
  ///   - size: bytes of each frame, without FCS; one of `sizes`.
  ///   - destination: the Ethernet address that the frames go to; nil: broadcast.
  ///   - mtu: that of jumbo frames, unless told otherwise: there is no link to exceed.
  public init(
    size: Int, destination: MACAddress? = nil, mtu: Int = 9000, queueCount: Int = 64
  ) throws(PortError) {
    guard GeneratePort.sizes.contains(size) else {
      throw PortError(
        "generate:\(size): a frame has \(GeneratePort.sizes.lowerBound) to "
          + "\(GeneratePort.sizes.upperBound) bytes")
    }
    name = "generate:\(size)"
    let mtu = max(mtu, size - 14)
    geometry = SyntheticQueue.geometry(mtu: mtu)
    source = FrameSource(size: size, destination: destination)
    capabilities = PortCapabilities(
      queueCount: queueCount, mtu: mtu, frameSize: geometry.frameRoom)
  }

  public func openQueue(_ index: Int) throws(PortError) -> any HostPortQueue {
    try SyntheticQueue(port: name, index: index, geometry: geometry, source: source)
  }
}

/// The frame that is generated: UDP from 192.0.2.1 to 192.0.2.2, port 9 (discard), with a sequence
/// number (64 bits, network order) as the first bytes of the data.
struct FrameSource: Sendable {
  static let sequenceOffset = 42
  let bytes: [UInt8]

  init(size: Int, destination: MACAddress?) {
    func word(_ value: Int) -> [UInt8] { [UInt8(value >> 8 & 0xff), UInt8(value & 0xff)] }
    var ip: [UInt8] = [0x45, 0] + word(size - 14) + [0, 0, 0x40, 0, 64, 17, 0, 0]
    ip += [192, 0, 2, 1, 192, 0, 2, 2]
    var sum = 0
    for i in stride(from: 0, to: ip.count, by: 2) { sum += Int(ip[i]) << 8 | Int(ip[i + 1]) }
    while sum > 0xffff { sum = sum & 0xffff + sum >> 16 }
    ip.replaceSubrange(10..<12, with: word(~sum & 0xffff))
    var bytes = destination?.bytes ?? [UInt8](repeating: 0xff, count: 6)
    bytes += [2, 0, 0, 0, 0, 1, 8, 0] + ip
    // A UDP checksum of 0 says that there is none (RFC 768).
    bytes += word(9) + word(9) + word(size - 34) + [0, 0]
    bytes += [UInt8](repeating: 0, count: size - bytes.count)
    self.bytes = bytes
  }
}
