// A packet socket that only transmits, packets whole: each with a virtio_net_hdr, by which the kernel
// or the network card fills in the checksum and cuts it into segments.  packet(7), PACKET_VNET_HDR.
//
// Protocol 0 keeps it from receiving, which would cost the interface a copy of every frame.  Never
// PACKET_QDISC_BYPASS: what the kernel has to cut itself is dropped on that way.
import CLinux
import Glibc

/// What became of a packet.
public enum PacketSendOutcome: Equatable, Sendable {
  /// It is the kernel's.
  case sent
  /// Nothing was taken: as much as the socket may hold is on its way.
  case full
  /// The queueing discipline or the device dropped it.  One that the kernel has cut may have left in
  /// parts: where there is no queueing discipline, only the last segment's fate is told.
  case dropped
  /// The interface is down or has been removed.
  case linkDown
  /// The kernel does not take such a packet.
  case refused(CInt)
}

public final class PacketSocket: Sendable {
  /// Bytes that may be on their way, with the kernel's own (it doubles the number): what a 10 Gbit/s
  /// link sends in the longest nap of a worker.
  static let sendBuffer: CInt = 2 << 20

  /// PACKET_VNET_HDR_SZ, which older headers lack.
  private static let headerLengthOption: CInt = 24
  private static let formerHeaderLength = 10

  private let socket: OwnedDescriptor
  /// Bytes of the virtio_net_hdr that the kernel expects: 12, before Linux 6.4 10.
  public let headerLength: Int

  public var raw: CInt { socket.raw }

  /// Takes over one that `init(interfaceIndex:)` of another process has made.
  public init(adopting socket: consuming OwnedDescriptor) {
    var length: CInt = 0
    var size = socklen_t(MemoryLayout<CInt>.size)
    let result = unsafe getsockopt(
      socket.raw, SOL_PACKET, PacketSocket.headerLengthOption, &length, &size)
    headerLength = result == 0 ? Int(length) : PacketSocket.formerHeaderLength
    self.socket = socket
  }

  /// A second descriptor of it, for another process.
  public func duplicate() throws(Errno) -> OwnedDescriptor { try socket.duplicate() }

  /// - Throws: EPERM without CAP_NET_RAW.
  public init(interfaceIndex: Int) throws(Errno) {
    let opened = OwnedDescriptor(
      adopting: try checkedCall {
        Glibc.socket(
          AF_PACKET,
          CInt(SOCK_RAW.rawValue | SOCK_CLOEXEC.rawValue | SOCK_NONBLOCK.rawValue), 0)
      })
    let headerLength = try PacketSocket.expectHeaders(opened.raw)
    // SO_SNDBUFFORCE, else what anybody may have.
    if PacketSocket.set(opened.raw, SOL_SOCKET, 32, PacketSocket.sendBuffer) != nil {
      _ = PacketSocket.set(opened.raw, SOL_SOCKET, SO_SNDBUF, PacketSocket.sendBuffer)
    }
    try PacketSocket.bind(opened.raw, interfaceIndex)
    socket = opened
    self.headerLength = headerLength
  }

  /// - Returns: bytes of each.
  private static func expectHeaders(_ socket: CInt) throws(Errno) -> Int {
    if set(socket, SOL_PACKET, headerLengthOption, CInt(GatheredPacket.headerSize)) == nil {
      return GatheredPacket.headerSize
    }
    if let error = set(socket, SOL_PACKET, PACKET_VNET_HDR, 1) { throw error }
    return formerHeaderLength
  }

  private static func bind(_ socket: CInt, _ interfaceIndex: Int) throws(Errno) {
    var address = sockaddr_ll()
    address.sll_family = UInt16(AF_PACKET)
    address.sll_ifindex = CInt(interfaceIndex)
    try checkedCall {
      unsafe withUnsafePointer(to: &address) {
        unsafe $0.withMemoryRebound(to: sockaddr.self, capacity: 1) {
          unsafe Glibc.bind(socket, $0, socklen_t(MemoryLayout<sockaddr_ll>.size))
        }
      }
    }
  }

  private static func set(_ socket: CInt, _ level: CInt, _ option: CInt, _ value: CInt) -> Errno? {
    var value = value
    let size = socklen_t(MemoryLayout<CInt>.size)
    return unsafe setsockopt(socket, level, option, &value, size) == 0 ? nil : Errno.current
  }

  /// Sends a packet by `descriptor`, whose `headerLength` is given; never waits.
  public static func send(
    _ packet: borrowing GatheredPacket, by descriptor: CInt, headerLength: Int
  ) -> PacketSendOutcome {
    unsafe packet.runs[0].iov_len = headerLength
    var message = unsafe msghdr()
    unsafe message.msg_iov = unsafe packet.runs
    unsafe message.msg_iovlen = packet.count
    while true {
      if unsafe sendmsg(descriptor, &message, CInt(MSG_DONTWAIT)) >= 0 { return .sent }
      switch errno {
      case EINTR: continue
      case EAGAIN: return .full
      case ENOBUFS, ENOMEM: return .dropped
      case ENETDOWN, ENXIO, ENODEV: return .linkDown
      case let code: return .refused(code)
      }
    }
  }

  /// Whether anything that was sent by `descriptor` waits in the kernel, or in the device as long as
  /// its driver does not deny that (SIOCOUTQ).
  public static func isBusy(_ descriptor: CInt) -> Bool {
    var bytes: CInt = 0
    return unsafe clinux_ioctl(descriptor, UInt(TIOCOUTQ), &bytes) < 0 || bytes > 0
  }
}
