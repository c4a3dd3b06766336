// `null:` takes every frame and drops it.
import AFXDP
import Linux

/// Takes and drops.  The frames are real memory, so the copy out of the guest is made.
public struct NullPort: HostPort {
  public let name = "null:"
  public let capabilities: PortCapabilities
  private let geometry: FrameGeometry

  /// - Parameter mtu: that of jumbo frames, unless told otherwise: there is no link to exceed.
  public init(mtu: Int = 9000, queueCount: Int = 64) {
    geometry = SyntheticQueue.geometry(mtu: mtu)
    capabilities = PortCapabilities(
      queueCount: queueCount, mtu: mtu, frameSize: geometry.frameRoom)
  }

  public func openQueue(_ index: Int) throws(PortError) -> any HostPortQueue {
    try SyntheticQueue(port: name, index: index, geometry: geometry, source: nil)
  }
}
