// virtio feature bits by their specification names (virtio 1.3, 5.1.3 and 6; vhost-user for 26
// and 30).

public struct VirtioFeatures: OptionSet, Hashable, Sendable {
  public let rawValue: UInt64
  public init(rawValue: UInt64) { self.rawValue = rawValue }
  private init(bit: Int) { rawValue = 1 << UInt64(bit) }

  public static let csum = VirtioFeatures(bit: 0)
  public static let guestCsum = VirtioFeatures(bit: 1)
  public static let mtu = VirtioFeatures(bit: 3)
  public static let mac = VirtioFeatures(bit: 5)
  public static let guestTSO4 = VirtioFeatures(bit: 7)
  public static let guestTSO6 = VirtioFeatures(bit: 8)
  public static let hostTSO4 = VirtioFeatures(bit: 11)
  public static let hostTSO6 = VirtioFeatures(bit: 12)
  public static let mrgRxbuf = VirtioFeatures(bit: 15)
  public static let status = VirtioFeatures(bit: 16)
  public static let ctrlVq = VirtioFeatures(bit: 17)
  public static let guestAnnounce = VirtioFeatures(bit: 21)
  public static let mq = VirtioFeatures(bit: 22)
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

  private static let names: [(VirtioFeatures, String)] = [
    (.csum, "CSUM"), (.guestCsum, "GUEST_CSUM"), (.mtu, "MTU"), (.mac, "MAC"),
    (.guestTSO4, "GUEST_TSO4"), (.guestTSO6, "GUEST_TSO6"), (.hostTSO4, "HOST_TSO4"),
    (.hostTSO6, "HOST_TSO6"), (.mrgRxbuf, "MRG_RXBUF"), (.status, "STATUS"),
    (.ctrlVq, "CTRL_VQ"), (.guestAnnounce, "GUEST_ANNOUNCE"), (.mq, "MQ"),
    (.notifyOnEmpty, "NOTIFY_ON_EMPTY"), (.logAll, "LOG_ALL"), (.anyLayout, "ANY_LAYOUT"),
    (.ringIndirectDesc, "INDIRECT_DESC"), (.ringEventIdx, "EVENT_IDX"),
    (.protocolFeatures, "PROTOCOL_FEATURES"), (.version1, "VERSION_1"),
    (.accessPlatform, "ACCESS_PLATFORM"), (.ringPacked, "RING_PACKED"), (.inOrder, "IN_ORDER"),
    (.orderPlatform, "ORDER_PLATFORM"),
  ]

  /// The names of the bits that are set, in bit order; unknown bits by number.
  public var namesOfBits: [String] {
    (0..<64).compactMap { bit in
      let feature = VirtioFeatures(bit: bit)
      guard contains(feature) else { return nil }
      return VirtioFeatures.names.first { $0.0 == feature }?.1 ?? "bit \(bit)"
    }
  }
}
