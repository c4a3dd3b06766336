// Asks the kernel about an interface: links, addresses and routes by netlink, the driver's
// answers by ethtool ioctls.  A question that a driver does not answer leaves its field at the
// harmless value; only the links themselves must be readable.
import CLinux
import Glibc

extension Interface {
  /// The names of all interfaces in this network namespace, in the kernel's order.
  public static func names() throws(Errno) -> [String] {
    let socket = try NetlinkSocket()
    return try Link.all(through: socket).map(\.name)
  }

  /// Reads interface `name`; nil if there is none.
  public static func read(_ name: String) throws(Errno) -> Interface? {
    let netlink = try NetlinkSocket()
    let links = try Link.all(through: netlink)
    guard let link = links.first(where: { $0.name == name }) else { return nil }
    let ethtool = try EthtoolSocket()
    let (driver, bus) = ethtool.driver(of: name)
    let (speed, isFullDuplex) = ethtool.speed(of: name)
    return Interface(
      name: name, index: link.index, isEthernet: link.type == Link.ethernet, isUp: link.isUp,
      hasCarrier: link.hasCarrier, mtu: link.mtu, hardwareAddress: link.address, driver: driver,
      bus: bus, receiveQueues: ethtool.receiveQueues(of: name, allocated: link.receiveQueues),
      stripsVLAN: ethtool.stripsVLAN(name), segmentsTCP: ethtool.segmentsTCP(name), speed: speed,
      isFullDuplex: isFullDuplex,
      numaNode: numaNode(bus: bus),
      hostUses: try hostUses(of: link, among: links, netlink),
      peer: try peer(of: link, among: links, netlink, ethtool))
  }

  /// Whether the driver's own flag (ethtool --show-priv-flags) is set; nil if it has none that is
  /// called so, or does not tell.
  public static func driverFlag(_ flag: String, of name: String) -> Bool? {
    guard let ethtool = try? EthtoolSocket() else { return nil }
    return ethtool.driverFlag(flag, of: name)
  }

  /// The interface and, transitively, every device on top of it, each with what the host has on it.
  private static func hostUses(
    of link: Link, among links: [Link], _ netlink: borrowing NetlinkSocket
  ) throws(Errno) -> [HostUse] {
    var stack = [link]
    var at = 0
    while at < stack.count {
      let lower = stack[at]
      for upper in links
      where upper.isOn(lower) && !stack.contains(where: { $0.index == upper.index }) {
        stack.append(upper)
      }
      at += 1
    }
    let addresses = try readAddresses(netlink)
    let routed = try readDefaultRoutes(netlink)
    return stack.map {
      HostUse(
        device: $0.name, addresses: addresses[$0.index] ?? [],
        hasDefaultRoute: routed.contains($0.index))
    }
  }

  /// Addresses by interface index.
  private static func readAddresses(
    _ netlink: borrowing NetlinkSocket
  ) throws(Errno) -> [Int: [String]] {
    var found: [Int: [String]] = [:]
    for message in try netlink.dump(Int(RTM_GETADDR)) {
      // ifaddrmsg: family, prefix length, flags, scope, index.
      let body = message.body
      let family = CInt(body.load(0, bytes: 1))
      let prefix = body.load(1, bytes: 1)
      let isLinkLocal = body.load(3, bytes: 1) == Int(RT_SCOPE_LINK.rawValue)
      if family == AF_INET6 && isLinkLocal { continue }
      let attributes = message.attributes(after: 8)
      // On a point-to-point interface IFA_ADDRESS is the other end's.
      guard let address = attributes[Int(IFA_LOCAL)] ?? attributes[Int(IFA_ADDRESS)],
        let text = addressText(family: family, address)
      else { continue }
      found[body.load(4), default: []].append("\(text)/\(prefix)")
    }
    return found
  }

  private static func addressText(family: CInt, _ address: [UInt8]) -> String? {
    let length = family == AF_INET ? 4 : family == AF_INET6 ? 16 : -1
    guard address.count == length else { return nil }
    var text = [CChar](repeating: 0, count: Int(INET6_ADDRSTRLEN))
    guard unsafe inet_ntop(family, address, &text, socklen_t(text.count)) != nil else { return nil }
    return text.map { UInt8(bitPattern: $0) }.text
  }

  /// Indices of the interfaces that a default route leaves by.
  private static func readDefaultRoutes(
    _ netlink: borrowing NetlinkSocket
  ) throws(Errno) -> Set<Int> {
    // rtmsg: family, destination length, source length, TOS, table, protocol, scope, type, flags.
    let routes = try netlink.dump(Int(RTM_GETROUTE)) { body in
      let start = body.startIndex
      return body.count >= 12 && body[start + 1] == 0 && Int(body[start + 7]) == Int(RTN_UNICAST)
    }
    var indices: Set<Int> = []
    for message in routes {
      let attributes = message.attributes(after: 12)
      if let index = attributes[Int(RTA_OIF.rawValue)] { indices.insert(index.load(0)) }
      // rtnexthop: length, flags, hops, index.
      let hops = attributes[Int(RTA_MULTIPATH.rawValue)] ?? []
      var at = 0
      while at + 8 <= hops.count {
        indices.insert(hops.load(at + 4))
        let length = hops.load(at, bytes: 2)
        guard length >= 8 else { break }
        at += (length + 3) & ~3
      }
    }
    return indices
  }

  private static func peer(
    of link: Link, among links: [Link], _ netlink: borrowing NetlinkSocket,
    _ ethtool: borrowing EthtoolSocket
  ) throws(Errno) -> Peer? {
    guard link.kind == "veth" else { return nil }
    if let namespace = link.linkNamespace {
      let away = (try? Link.all(through: netlink, namespace: namespace)) ?? []
      guard let found = away.first(where: { $0.index == link.lower }) else { return Peer() }
      return Peer(
        name: found.name,
        leavesChecksums: Peer.defersChecksum(found.name, inNamespace: namespace), mtu: found.mtu,
        runsXDP: found.runsXDP)
    }
    guard let found = links.first(where: { $0.index == link.lower }) else { return Peer() }
    return Peer(
      name: found.name, leavesChecksums: ethtool.defersChecksum(found.name), mtu: found.mtu,
      runsXDP: found.runsXDP)
  }

  /// - Parameter bus: a PCI address, or anything else, for which there is no answer.
  private static func numaNode(bus: String) -> Int? {
    guard !bus.isEmpty, !bus.contains("/") else { return nil }
    let file = unsafe open("/sys/bus/pci/devices/\(bus)/numa_node", O_RDONLY | O_CLOEXEC)
    guard file >= 0 else { return nil }
    let owned = OwnedDescriptor(adopting: file)
    var bytes = [UInt8](repeating: 0, count: 16)
    let count = unsafe Glibc.read(owned.raw, &bytes, bytes.count)
    guard count > 0 else { return nil }
    let digits = bytes.prefix(count).prefix { $0 != UInt8(ascii: "\n") }
    guard let node = Int(String(decoding: digits, as: UTF8.self)), node >= 0 else { return nil }
    return node
  }
}

/// One row of the kernel's table of links.
struct Link {
  /// ARPHRD_ETHER, whose header clashes with Glibc's.
  static let ethernet = 1

  var index: Int
  var name: String
  /// What it carries: `ethernet` or another ARPHRD number.
  var type: Int
  /// IFF_UP and others.
  var flags: Int
  var mtu: Int
  var address: [UInt8]
  /// "veth", "bridge"; nil for hardware.
  var kind: String?
  /// The bridge or bond that this is a port of.
  var master: Int?
  /// The device below a VLAN or macvlan; the other end of a veth.
  var lower: Int?
  /// The number of the namespace that `lower` is in, if it is not this one.
  var linkNamespace: Int?
  /// Allocated ones; some may be unused.
  var receiveQueues: Int
  /// An XDP program is attached, in whatever mode.
  var runsXDP: Bool
  /// The kernel's numbers of them.
  var programs: Set<Int>

  static func all(
    through netlink: borrowing NetlinkSocket, namespace: Int? = nil
  ) throws(Errno) -> [Link] {
    try netlink.dump(Int(RTM_GETLINK), namespace: namespace).map(Link.init)
  }

  init(_ message: NetlinkMessage) {
    // ifinfomsg: family, pad, type, index, flags, change.
    let attributes = message.attributes(after: 16)
    type = message.body.load(2, bytes: 2)
    index = message.body.load(4)
    flags = message.body.load(8)
    name = attributes[Int(IFLA_IFNAME)]?.text ?? ""
    mtu = attributes[Int(IFLA_MTU)]?.load(0) ?? 0
    address = attributes[Int(IFLA_ADDRESS)] ?? []
    kind = attributes[Int(IFLA_LINKINFO)].flatMap {
      NetlinkMessage.attributes(of: $0)[Int(IFLA_INFO_KIND)]?.text
    }
    master = attributes[Int(IFLA_MASTER)]?.load(0)
    lower = attributes[Int(IFLA_LINK)]?.load(0)
    linkNamespace = attributes[Int(IFLA_LINK_NETNSID)]?.load(0)
    receiveQueues = attributes[Int(IFLA_NUM_RX_QUEUES)]?.load(0) ?? 1
    let xdp = attributes[Int(IFLA_XDP)].map { NetlinkMessage.attributes(of: $0) }
    runsXDP = (xdp?[Int(IFLA_XDP_ATTACHED)]?.load(0, bytes: 1) ?? 0) != 0
    // The only one is in the first, several are by mode.
    programs = Set(
      [IFLA_XDP_PROG_ID, IFLA_XDP_DRV_PROG_ID, IFLA_XDP_SKB_PROG_ID, IFLA_XDP_HW_PROG_ID]
        .compactMap { xdp?[Int($0)]?.load(0) })
  }

  var isUp: Bool { flags & Int(IFF_UP) != 0 }
  var hasCarrier: Bool { isUp && flags & Int(IFF_RUNNING) != 0 }

  /// Whether this device's packets come from `other`: as its port or as what it is stacked on.
  func isOn(_ other: Link) -> Bool {
    if other.master == index { return true }
    return lower == other.index && linkNamespace == nil && kind != "veth" && index != other.index
  }
}

/// The driver's answers; one that it does not give is the harmless one.
public struct EthtoolSocket: ~Copyable, Sendable {
  private let descriptor: OwnedDescriptor

  /// A socket to ask through, in the network namespace of the calling thread.
  public init() throws(Errno) {
    let result = clinux_interface_socket()
    guard result >= 0 else { throw Errno(-result) }
    descriptor = OwnedDescriptor(adopting: result)
  }

  func driver(of name: String) -> (driver: String, bus: String) {
    var driver = [CChar](repeating: 0, count: 32)
    var bus = [CChar](repeating: 0, count: 32)
    guard unsafe clinux_interface_driver(descriptor.raw, name, &driver, &bus) == 0 else {
      return ("", "")
    }
    return (driver.map { UInt8(bitPattern: $0) }.text, bus.map { UInt8(bitPattern: $0) }.text)
  }

  /// - Parameter allocated: the answer if the driver gives none.
  func receiveQueues(of name: String, allocated: Int) -> Interface.ReceiveQueues {
    var queues = Interface.ReceiveQueues(count: allocated)
    var channels = clinux_channels()
    if unsafe clinux_interface_channels(descriptor.raw, name, &channels) == 0,
      channels.rx + channels.combined > 0
    {
      queues.count = Int(channels.rx + channels.combined)
      queues.most = Int(channels.most_rx + channels.most_combined)
      queues.channelKind = channels.most_combined > 0 ? "combined" : "rx"
    }
    var table = [UInt32](repeating: 0, count: 1 << 16)
    let rows = unsafe clinux_interface_hash_table(descriptor.raw, name, &table, CInt(table.count))
    if rows > 0 { queues.hashed = Set(table.prefix(Int(rows)).map(Int.init)).sorted() }
    return queues
  }

  /// The queues of interface `name` that packets can arrive on now are numbered below this.
  public func queueEnd(of name: String) -> Int {
    let queues = receiveQueues(of: name, allocated: 1)
    return queues.hashed?.last.map { $0 + 1 } ?? queues.count
  }

  func stripsVLAN(_ name: String) -> Bool {
    unsafe clinux_interface_strips_vlan(descriptor.raw, name) == 1
  }

  /// Whether large TCP packets are left to interface `name` to cut, as it is set now.
  public func segmentsTCP(_ name: String) -> Bool {
    unsafe clinux_interface_segments_tcp(descriptor.raw, name) == 1
  }

  func speed(of name: String) -> (speed: UInt32?, isFullDuplex: Bool?) {
    var speed: UInt32 = 0
    var duplex: UInt8 = 0
    guard unsafe clinux_interface_speed(descriptor.raw, name, &speed, &duplex) == 0 else {
      return (nil, nil)
    }
    return (speed == 0 || speed == .max ? nil : speed, duplex > 1 ? nil : duplex == 1)
  }

  func driverFlag(_ flag: String, of name: String) -> Bool? {
    let result = unsafe clinux_interface_private_flag(descriptor.raw, name, flag)
    return result < 0 ? nil : result == 1
  }

  func defersChecksum(_ name: String) -> Bool? {
    switch unsafe clinux_interface_defers_checksum(descriptor.raw, name) {
    case 0: false
    case 1: true
    default: nil
    }
  }
}
