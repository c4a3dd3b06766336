// A tap device with virtio-net headers: the other side of the driver's queues, where the kernel's
// own network stack is the guest.
import Glibc
import Linux
import Virtqueue

/// A tap device in the network namespace of the process; it goes with this.
final class TapDevice: Sendable {
  /// <linux/if_tun.h>: macros with a type in them, which are not imported.
  private enum Request {
    static let setInterface: UInt = 0x4004_54ca
    static let setOffload: UInt = 0x4004_54d0
    static let setHeaderSize: UInt = 0x4004_54d8
  }
  private static let tap: Int16 = 0x0002
  private static let napi: Int16 = 0x0010
  private static let noPacketInformation: Int16 = 0x1000
  private static let virtioHeader: Int16 = 0x4000

  private let descriptor: OwnedDescriptor

  var raw: CInt { descriptor.raw }

  /// - Parameter mergesReceived: what is written to it goes through the kernel's NAPI and hence GRO.
  init(_ name: String, mergesReceived: Bool) throws {
    guard (1...15).contains(name.utf8.count) else {
      throw BenchError("--interface=\(name): an interface's name has 1 to 15 bytes")
    }
    let raw = unsafe open("/dev/net/tun", O_RDWR | O_CLOEXEC | O_NONBLOCK)
    guard raw >= 0 else { throw BenchError("cannot open /dev/net/tun: \(Errno.current)") }
    descriptor = OwnedDescriptor(adopting: raw)
    var request = unsafe ifreq()
    unsafe withUnsafeMutableBytes(of: &request.ifr_ifrn.ifrn_name) {
      unsafe $0.copyBytes(from: name.utf8)
    }
    unsafe request.ifr_ifru.ifru_flags =
      TapDevice.tap | TapDevice.noPacketInformation | TapDevice.virtioHeader
      | (mergesReceived ? TapDevice.napi : 0)
    guard unsafe ioctl(raw, Request.setInterface, &request) == 0 else {
      throw BenchError(
        "cannot make the tap \(name): \(Errno.current); it takes root, and a name not in use")
    }
    var size = CInt(FrameTemplate.header)
    guard unsafe ioctl(raw, Request.setHeaderSize, &size) == 0 else {
      throw BenchError("\(name): headers of 12 bytes: \(Errno.current)")
    }
  }

  /// Has the stack leave to the device what the device can do.
  /// - Returns: whether it leaves UDP segmentation to it too, which is younger than the rest.
  @discardableResult
  func setOffloads(_ features: VirtioFeatures) throws -> Bool {
    let (other, udp) = TapDevice.offloads(features)
    if udp != 0, ioctl(raw, Request.setOffload, other | udp) == 0 { return true }
    guard ioctl(raw, Request.setOffload, other) == 0 else {
      throw BenchError("the tap refuses offloads \(other): \(Errno.current)")
    }
    return false
  }

  /// TUN_F_… for what was negotiated; those for UDP apart.
  static func offloads(_ features: VirtioFeatures) -> (other: CInt, udp: CInt) {
    guard features.contains(.csum) else { return (0, 0) }
    var other: CInt = 0x01
    if features.contains(.hostTSO4) { other |= 0x02 }
    if features.contains(.hostTSO6) { other |= 0x04 }
    if features.contains(.hostECN), other & 0x06 != 0 { other |= 0x08 }
    return (other, features.contains(.hostUSO) ? 0x20 | 0x40 : 0)
  }
}
