// What happens to one interface while it is used.  An AF_XDP socket does not tell: when its
// interface goes, poll(2) stays silent for ever.  rtnetlink(7), group RTNLGRP_LINK.
import CLinux
import Glibc

/// Changes of one interface, in the order in which they happened.
public struct LinkEvents: ~Copyable, Sendable {
  public enum Event: Equatable, Sendable {
    /// It was deleted, or moved to another network namespace.
    case removed
    /// Its state now: administratively up, and with a carrier.
    case state(isUp: Bool, hasCarrier: Bool)
  }

  private let socket: OwnedDescriptor
  private let index: Int

  public init(interfaceIndex: Int) throws(Errno) {
    let type = SOCK_RAW.rawValue | SOCK_CLOEXEC.rawValue | SOCK_NONBLOCK.rawValue
    let raw = try checkedCall { Glibc.socket(AF_NETLINK, CInt(type), NETLINK_ROUTE) }
    let socket = OwnedDescriptor(adopting: raw)
    try checkedCall {
      var address = sockaddr_nl()
      address.nl_family = sa_family_t(AF_NETLINK)
      address.nl_groups = UInt32(RTMGRP_LINK)
      return unsafe withUnsafeBytes(of: &address) { bytes in
        unsafe bind(
          raw, bytes.baseAddress!.assumingMemoryBound(to: sockaddr.self), socklen_t(bytes.count))
      }
    }
    self.socket = socket
    index = interfaceIndex
  }

  /// For an epoll set.
  public var raw: CInt { socket.raw }

  /// The events since the last call.  Some may be missing if the kernel's queue overflowed; then
  /// one that is made up of the present state stands for them.
  public func take() -> [Event] {
    var events: [Event] = []
    var datagram = [UInt8](repeating: 0, count: 1 << 15)
    while true {
      let raw = socket.raw
      switch systemCall({ unsafe recv(raw, &datagram, datagram.count, 0) }) {
      case .done(let count) where count > 0:
        NetlinkMessage.forEach(in: datagram[..<count]) { type, body in
          // ifinfomsg: family, pad, type, index, flags, change.
          let message = Array(body)
          guard message.load(4) == index else { return }
          if type == Int(RTM_DELLINK) {
            // A port that leaves its bridge is told in the same way, as of family AF_BRIDGE.
            if message.load(0, bytes: 1) == Int(AF_UNSPEC) { events.append(.removed) }
          } else if type == Int(RTM_NEWLINK) {
            let link = Link(NetlinkMessage(body: message))
            events.append(.state(isUp: link.isUp, hasCarrier: link.hasCarrier))
          }
        }
      case .failed(Errno(ENOBUFS)):
        let links = try? Link.all(through: NetlinkSocket())
        guard let links else { continue }
        guard let link = links.first(where: { $0.index == index }) else { return [.removed] }
        events.append(.state(isUp: link.isUp, hasCarrier: link.hasCarrier))
      default: return events
      }
    }
  }
}
