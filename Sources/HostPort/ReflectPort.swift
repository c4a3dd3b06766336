// `reflect:` gives back to the guest what it transmits.
import AFXDP
import Linux

/// A mirror: each queue receives what was transmitted on it, in order and unchanged.
public struct ReflectPort: HostPort {
  public let name = "reflect:"
  public let capabilities: PortCapabilities
  private let geometry: FrameGeometry

  /// - Parameter mtu: that of jumbo frames, unless told otherwise: there is no link to exceed.
  public init(mtu: Int = 9000, queueCount: Int = 64) {
    geometry = ReflectQueue.geometry(mtu: mtu)
    capabilities = PortCapabilities(
      queueCount: queueCount, mtu: mtu, frameSize: geometry.frameRoom)
  }

  public func openQueue(_ index: Int) throws(PortError) -> any HostPortQueue {
    try ReflectQueue(port: name, index: index, geometry: geometry)
  }
}
