// What happens to one interface while it is used.  An AF_XDP socket does not tell: when its
// interface goes, poll(2) stays silent for ever.  rtnetlink(7), group RTNLGRP_LINK.
//
// Not everything is told: an XDP program that is detached by its link is not.  So the state can be
// asked for too, by a socket that is open already: in a sandbox nobody gets another one.
import CLinux
import Glibc

/// An interface's state that may change while it is used.
public struct LinkState: Equatable, Sendable {
  /// Administratively.
  public var isUp: Bool
  public var hasCarrier: Bool
  public var mtu: Int
  /// The kernel's numbers of the XDP programs that are attached, in whatever mode.
  public var programs: Set<Int>

  public init(isUp: Bool, hasCarrier: Bool, mtu: Int, programs: Set<Int> = []) {
    self.isUp = isUp
    self.hasCarrier = hasCarrier
    self.mtu = mtu
    self.programs = programs
  }

  init(_ link: Link) {
    self.init(
      isUp: link.isUp, hasCarrier: link.hasCarrier, mtu: link.mtu, programs: link.programs)
  }
}

/// Changes of one interface, in the order in which they happened.
public struct LinkEvents: ~Copyable, Sendable {
  public enum Event: Equatable, Sendable {
    /// It was deleted, or moved to another network namespace.
    case removed
    /// Its state now.
    case state(LinkState)
  }

  private let socket: OwnedDescriptor
  /// To ask by.
  private let questions: NetlinkSocket
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
    questions = try NetlinkSocket()
    self.socket = socket
    index = interfaceIndex
  }

  /// For an epoll set.
  public var raw: CInt { socket.raw }

  /// The events since the last call.  Some are missing if the kernel's queue overflowed; then one
  /// that is made up of the present state comes last.
  public func take() -> [Event] {
    var events: [Event] = []
    var isOverflown = false
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
            events.append(.state(LinkState(Link(NetlinkMessage(body: message)))))
          }
        }
      case .failed(Errno(ENOBUFS)): isOverflown = true
      default:
        if isOverflown, let event = look() { events.append(event) }
        return events
      }
    }
  }

  /// The present state, as an event; nil if the kernel does not tell.
  public func look() -> Event? {
    // ifinfomsg: family, pad, type, index, flags, change.
    var question = [UInt8](repeating: 0, count: 16)
    question.store(index, at: 4, bytes: 4)
    do throws(Errno) {
      let answers = try questions.ask(Int(RTM_GETLINK), question).map(Link.init)
      return answers.first { $0.index == index }.map { .state(LinkState($0)) }
    } catch {
      return error.code == ENODEV ? .removed : nil
    }
  }
}
