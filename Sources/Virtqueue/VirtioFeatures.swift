// virtio feature bits by their specification names (virtio 1.3, 5.1.3 and 6; vhost-user for 26
// and 30).

public struct VirtioFeatures: OptionSet, Hashable, Sendable {
  public let rawValue: UInt64
  public init(rawValue: UInt64) { self.rawValue = rawValue }
  private init(bit: Int) { rawValue = 1 << UInt64(bit) }

  public static let csum = VirtioFeatures(bit: 0)
  public static let guestCsum = VirtioFeatures(bit: 1)
  public static let ctrlGuestOffloads = VirtioFeatures(bit: 2)
  public static let mtu = VirtioFeatures(bit: 3)
  public static let mac = VirtioFeatures(bit: 5)
  public static let guestTSO4 = VirtioFeatures(bit: 7)
  public static let guestTSO6 = VirtioFeatures(bit: 8)
  public static let guestECN = VirtioFeatures(bit: 9)
  public static let hostTSO4 = VirtioFeatures(bit: 11)
  public static let hostTSO6 = VirtioFeatures(bit: 12)
  public static let hostECN = VirtioFeatures(bit: 13)
  public static let mrgRxbuf = VirtioFeatures(bit: 15)
  public static let status = VirtioFeatures(bit: 16)
  public static let ctrlVq = VirtioFeatures(bit: 17)
  public static let ctrlRx = VirtioFeatures(bit: 18)
  public static let ctrlVlan = VirtioFeatures(bit: 19)
  public static let ctrlRxExtra = VirtioFeatures(bit: 20)
  public static let guestAnnounce = VirtioFeatures(bit: 21)
  public static let mq = VirtioFeatures(bit: 22)
  public static let ctrlMacAddr = VirtioFeatures(bit: 23)
  public static let notifyOnEmpty = VirtioFeatures(bit: 24)
  public static let logAll = VirtioFeatures(bit: 26)
  public static let anyLayout = VirtioFeatures(bit: 27)
  public static let ringIndirectDesc = VirtioFeatures(bit: 28)
  public static let ringEventIdx = VirtioFeatures(bit: 29)
  public static let protocolFeatures = VirtioFeatures(bit: 30)
  public static let version1 = VirtioFeatures(bit: 32)
  public static let accessPlatform = VirtioFeatures(bit: 33)
  public static let ringPacked = VirtioFeatures(bit: 34)
  public static let inOrder = VirtioFeatures(bit: 35)
  public static let orderPlatform = VirtioFeatures(bit: 36)
  public static let ringReset = VirtioFeatures(bit: 40)
  public static let guestUSO4 = VirtioFeatures(bit: 54)
  public static let guestUSO6 = VirtioFeatures(bit: 55)
  public static let hostUSO = VirtioFeatures(bit: 56)
  public static let speedDuplex = VirtioFeatures(bit: 63)

  /// By bit; also of bits that are never offered, for what a front-end asks for.
  private static let names: [Int: String] = [
    0: "CSUM", 1: "GUEST_CSUM", 2: "CTRL_GUEST_OFFLOADS", 3: "MTU", 5: "MAC", 6: "GSO",
    7: "GUEST_TSO4", 8: "GUEST_TSO6", 9: "GUEST_ECN", 10: "GUEST_UFO", 11: "HOST_TSO4",
    12: "HOST_TSO6", 13: "HOST_ECN", 14: "HOST_UFO", 15: "MRG_RXBUF", 16: "STATUS", 17: "CTRL_VQ",
    18: "CTRL_RX", 19: "CTRL_VLAN", 20: "CTRL_RX_EXTRA", 21: "GUEST_ANNOUNCE", 22: "MQ",
    23: "CTRL_MAC_ADDR", 24: "NOTIFY_ON_EMPTY", 26: "LOG_ALL", 27: "ANY_LAYOUT",
    28: "INDIRECT_DESC", 29: "EVENT_IDX", 30: "PROTOCOL_FEATURES", 32: "VERSION_1",
    33: "ACCESS_PLATFORM", 34: "RING_PACKED", 35: "IN_ORDER", 36: "ORDER_PLATFORM", 37: "SR_IOV",
    38: "NOTIFICATION_DATA", 39: "NOTIF_CONFIG_DATA", 40: "RING_RESET", 41: "ADMIN_VQ",
    50: "DEVICE_STATS", 51: "HASH_TUNNEL", 52: "VQ_NOTF_COAL", 53: "NOTF_COAL", 54: "GUEST_USO4",
    55: "GUEST_USO6", 56: "HOST_USO", 57: "HASH_REPORT", 59: "GUEST_HDRLEN", 60: "RSS",
    61: "RSC_EXT", 62: "STANDBY", 63: "SPEED_DUPLEX",
  ]

  /// The names of the bits that are set, in bit order; unknown bits by number.
  public var namesOfBits: [String] {
    (0..<64).compactMap { bit in
      contains(VirtioFeatures(bit: bit)) ? VirtioFeatures.names[bit] ?? "bit \(bit)" : nil
    }
  }
}
