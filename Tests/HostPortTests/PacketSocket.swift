// What the kernel itself gets to see of an interface.
import AFXDP
import CLinux
import Glibc
import Linux

struct PacketSocket: ~Copyable {
  private let socket: OwnedDescriptor

  init(_ interface: XDPInterface) throws {
    socket = try PacketSocket.open(interface)
  }

  private static func open(_ interface: XDPInterface) throws -> OwnedDescriptor {
    let opened = OwnedDescriptor(
      adopting: try checkedCall {
        Glibc.socket(AF_PACKET, CInt(SOCK_RAW.rawValue | SOCK_CLOEXEC.rawValue), 0)
      })
    // SO_RCVBUFFORCE: some tests look late.
    var room: CInt = 32 << 20
    try checkedCall { unsafe setsockopt(opened.raw, SOL_SOCKET, 33, &room, 4) }
    var address = sockaddr_ll()
    address.sll_family = UInt16(AF_PACKET)
    // ETH_P_ALL
    address.sll_protocol = UInt16(3).bigEndian
    address.sll_ifindex = CInt(interface.index)
    try checkedCall {
      unsafe withUnsafePointer(to: &address) {
        unsafe $0.withMemoryRebound(to: sockaddr.self, capacity: 1) {
          unsafe bind(opened.raw, $0, socklen_t(MemoryLayout<sockaddr_ll>.size))
        }
      }
    }
    return opened
  }

  /// Everything that has come, until nothing has for 100 ms.
  ///
  /// - Parameter count: as many are waited for longer, if others have the CPU.
  func collect(atLeast count: Int = 0) -> [[UInt8]] {
    var frames: [[UInt8]] = []
    while let frame = next(patience: frames.count < count ? 5000 : 100) { frames.append(frame) }
    return frames
  }

  /// Everything that has come up to the first frame that is `last`.
  func collect(until last: ([UInt8]) -> Bool) -> [[UInt8]] {
    var frames: [[UInt8]] = []
    while let frame = next(patience: 5000) {
      frames.append(frame)
      if last(frame) { break }
    }
    return frames
  }

  /// - Parameter patience: milliseconds.
  private func next(patience: CInt) -> [UInt8]? {
    guard waitFor(Int16(POLLIN), of: socket.raw, milliseconds: patience) != 0 else { return nil }
    var bytes = [UInt8](repeating: 0, count: 65536)
    let count = unsafe recv(socket.raw, &bytes, bytes.count, 0)
    return count > 0 ? Array(bytes[0..<count]) : nil
  }
}
