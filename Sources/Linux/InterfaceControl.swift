// What is done to an interface: it is brought up, and kept promiscuous as long as an owner lives.
import CLinux
import Glibc

extension Interface {
  /// Sets the interface up.
  /// - Throws: EPERM without CAP_NET_ADMIN, or what the driver says.
  public static func bringUp(_ name: String) throws(Errno) {
    let socket = clinux_interface_socket()
    guard socket >= 0 else { throw Errno(-socket) }
    let owned = OwnedDescriptor(adopting: socket)
    let result = unsafe clinux_interface_bring_up(owned.raw, name)
    guard result >= 0 else { throw Errno(-result) }
  }
}

/// Keeps an interface promiscuous: by the membership of a packet socket, which the kernel counts
/// and takes back when the process ends, however it ends.  Setting IFF_PROMISC would outlive a
/// killed daemon.  packet(7).
public struct PromiscuousMembership: ~Copyable, Sendable {
  private let socket: OwnedDescriptor

  /// - Throws: EPERM without CAP_NET_RAW.
  public init(interfaceIndex: Int) throws(Errno) {
    let result = clinux_promiscuous_socket(CInt(interfaceIndex))
    guard result >= 0 else { throw Errno(-result) }
    socket = OwnedDescriptor(adopting: result)
  }

  /// Takes over the membership that another process has made.
  public init(adopting socket: consuming OwnedDescriptor) { self.socket = socket }

  /// The socket, for another process.
  public consuming func release() -> OwnedDescriptor { socket }
}
