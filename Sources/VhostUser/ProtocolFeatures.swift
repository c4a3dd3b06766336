// vhost-user protocol features by their specification names (vhost-user specification, "Protocol
// features").  They are negotiated beside the virtio features and never reach the guest.

import Linux

public struct ProtocolFeatures: OptionSet, Hashable, Sendable {
  public let rawValue: UInt64
  public init(rawValue: UInt64) { self.rawValue = rawValue }
  private init(bit: Int) { rawValue = 1 << UInt64(bit) }

  public static let mq = ProtocolFeatures(bit: 0)
  public static let logShmfd = ProtocolFeatures(bit: 1)
  public static let rarp = ProtocolFeatures(bit: 2)
  public static let replyAck = ProtocolFeatures(bit: 3)
  public static let mtu = ProtocolFeatures(bit: 4)
  public static let backendReq = ProtocolFeatures(bit: 5)
  public static let crossEndian = ProtocolFeatures(bit: 6)
  public static let cryptoSession = ProtocolFeatures(bit: 7)
  public static let pagefault = ProtocolFeatures(bit: 8)
  public static let config = ProtocolFeatures(bit: 9)
  public static let backendSendFD = ProtocolFeatures(bit: 10)
  public static let hostNotifier = ProtocolFeatures(bit: 11)
  public static let inflightShmfd = ProtocolFeatures(bit: 12)
  public static let resetDevice = ProtocolFeatures(bit: 13)
  public static let inbandNotifications = ProtocolFeatures(bit: 14)
  public static let configureMemSlots = ProtocolFeatures(bit: 15)
  public static let status = ProtocolFeatures(bit: 16)
  public static let xenMmap = ProtocolFeatures(bit: 17)
  public static let sharedObject = ProtocolFeatures(bit: 18)
  public static let deviceState = ProtocolFeatures(bit: 19)
  public static let getVringBaseInflight = ProtocolFeatures(bit: 20)
  public static let gpaAddresses = ProtocolFeatures(bit: 21)
  public static let shmem = ProtocolFeatures(bit: 22)

  /// What this back-end offers with any device and configuration; a device adds what it implements
  /// (`Device.offeredProtocolFeatures`).  Nothing else: other bits are masked when a front-end sets
  /// them.
  public static let offered: ProtocolFeatures = [
    .mq, .logShmfd, .rarp, .replyAck, .mtu, .backendReq, .inflightShmfd, .resetDevice,
    .inbandNotifications, .configureMemSlots, .status, .deviceState, .getVringBaseInflight,
    .gpaAddresses,
  ]

  /// What a device offers besides that takes part in postcopy migrations, where the kernel has
  /// userfaultfd for shared memory.  For front-ends that may do with this process as they like: see
  /// `BackEnd.advisePostcopy`.
  public static var postcopy: ProtocolFeatures { UserFaults.areSupported ? .pagefault : [] }

  private static let names = [
    "MQ", "LOG_SHMFD", "RARP", "REPLY_ACK", "MTU", "BACKEND_REQ", "CROSS_ENDIAN",
    "CRYPTO_SESSION", "PAGEFAULT", "CONFIG", "BACKEND_SEND_FD", "HOST_NOTIFIER",
    "INFLIGHT_SHMFD", "RESET_DEVICE", "INBAND_NOTIFICATIONS", "CONFIGURE_MEM_SLOTS", "STATUS",
    "XEN_MMAP", "SHARED_OBJECT", "DEVICE_STATE", "GET_VRING_BASE_INFLIGHT",
    "GPA_ADDRESSES", "SHMEM",
  ]

  /// The names of the bits that are set, in bit order; unknown bits by number.
  public var namesOfBits: [String] {
    (0..<64).compactMap { bit in
      guard contains(ProtocolFeatures(bit: bit)) else { return nil }
      return bit < ProtocolFeatures.names.count ? ProtocolFeatures.names[bit] : "bit \(bit)"
    }
  }
}
