// What the kernel says about one network interface, as a value: whoever decides on it is a pure
// function, and tests make up any interface they like.

/// A network interface as it was when it was read.
public struct Interface: Equatable, Sendable {
  /// How received packets are spread over receive queues.
  public struct ReceiveQueues: Equatable, Sendable {
    /// Queues in use, numbered from 0.
    public var count: Int
    /// How many there can be; nil if the driver does not say.
    public var most: Int?
    /// The word that ethtool -L has for them, "combined" or "rx"; nil if it cannot set them.
    public var channelKind: String?
    /// Queues that the receive hash table names, ascending; nil if there is no such table.
    public var hashed: [Int]?

    public init(count: Int, most: Int? = nil, channelKind: String? = nil, hashed: [Int]? = nil) {
      self.count = count
      self.most = most
      self.channelKind = channelKind
      self.hashed = hashed
    }
  }

  /// What the host itself does with the interface, directly or by a device on top of it (a bridge
  /// that it is a port of, a bond, a VLAN).
  public struct HostUse: Equatable, Sendable {
    /// The interface itself or the device on top of it.
    public var device: String
    /// Addresses with prefix length.  IPv6 link-local ones are left out: every interface that is
    /// up gets one by itself, so they say nothing about the host's need.
    public var addresses: [String]
    public var hasDefaultRoute: Bool

    public init(device: String, addresses: [String] = [], hasDefaultRoute: Bool = false) {
      self.device = device
      self.addresses = addresses
      self.hasDefaultRoute = hasDefaultRoute
    }
  }

  /// The other end of a veth pair.
  public struct Peer: Equatable, Sendable {
    /// Nil if it is in a namespace that may not be looked into.
    public var name: String?
    /// Whether it sends packets with the checksum not filled in; nil if it could not be asked: in
    /// another network namespace that takes CAP_SYS_ADMIN.
    public var leavesChecksums: Bool?
    public var mtu: Int?
    /// An XDP program is attached to it.
    public var runsXDP: Bool

    public init(
      name: String? = nil, leavesChecksums: Bool? = nil, mtu: Int? = nil, runsXDP: Bool = false
    ) {
      self.name = name
      self.leavesChecksums = leavesChecksums
      self.mtu = mtu
      self.runsXDP = runsXDP
    }
  }

  public var name: String
  public var index: Int
  /// Carries Ethernet frames (and is no loopback).
  public var isEthernet: Bool
  public var isUp: Bool
  /// Up, with a cable or another end that is up too.
  public var hasCarrier: Bool
  /// In bytes, without the Ethernet header.
  public var mtu: Int
  /// Six bytes for Ethernet.
  public var hardwareAddress: [UInt8]
  /// Of ethtool -i: "veth", "ice"; empty if there is none.
  public var driver: String
  /// Of ethtool -i, too: a PCI address for hardware; empty if there is none.
  public var bus: String
  public var receiveQueues: ReceiveQueues
  /// Received frames lose their VLAN tag before an XDP program sees them.
  public var stripsVLAN: Bool
  /// Large TCP packets are left to it to cut (tx-tcp-segmentation), as it is set.
  public var segmentsTCP: Bool
  /// In Mbit/s; nil if the driver does not know.
  public var speed: UInt32?
  /// Nil if the driver does not know.
  public var isFullDuplex: Bool?
  /// Of the PCI device behind it.
  public var numaNode: Int?
  /// The interface's own use first, then that of the devices on top of it.
  public var hostUses: [HostUse]
  /// Nil unless the interface is one end of a veth pair.
  public var peer: Peer?

  public init(
    name: String, index: Int, isEthernet: Bool = true, isUp: Bool = true,
    hasCarrier: Bool = true, mtu: Int = 1500, hardwareAddress: [UInt8] = [2, 0, 0, 0, 0, 1],
    driver: String = "", bus: String = "",
    receiveQueues: ReceiveQueues = ReceiveQueues(count: 1), stripsVLAN: Bool = false,
    segmentsTCP: Bool = false, speed: UInt32? = nil, isFullDuplex: Bool? = nil,
    numaNode: Int? = nil, hostUses: [HostUse] = [], peer: Peer? = nil
  ) {
    self.name = name
    self.index = index
    self.isEthernet = isEthernet
    self.isUp = isUp
    self.hasCarrier = hasCarrier
    self.mtu = mtu
    self.hardwareAddress = hardwareAddress
    self.driver = driver
    self.bus = bus
    self.receiveQueues = receiveQueues
    self.stripsVLAN = stripsVLAN
    self.segmentsTCP = segmentsTCP
    self.speed = speed
    self.isFullDuplex = isFullDuplex
    self.numaNode = numaNode
    self.hostUses = hostUses
    self.peer = peer
  }

  /// Queues that packets can arrive on: those of the hash table, or without one all.
  public var queuesWithTraffic: [Int] {
    receiveQueues.hashed ?? Array(0..<receiveQueues.count)
  }
}
