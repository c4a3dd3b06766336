// A request of the front-end: header and payload bytes become a value.
//
// Pure and total: any bytes give a message or an error, and nothing is looked up outside the
// request table, so the fuzzer needs no session.  Hostile: every byte.  Descriptors travel beside
// a message, because they have an owner; here only their number is checked.
//
// Numbers are in the machine's byte order (vhost-user specification, "Message Specification"),
// and the machine is little-endian: so is the virtio that this back-end speaks.
public import GuestMemory

/// The twelve bytes in front of each payload.
public struct MessageHeader: Equatable, Sendable {
  public static let byteCount = 12
  /// The largest payload taken.  The largest that the specification knows, a crypto session, has
  /// less than 2 KiB; a larger one is not a message.
  public static let maximumPayload = 4096

  public var request: UInt32
  public var flags: UInt32
  /// Bytes of payload.
  public var size: UInt32

  public static let versionMask: UInt32 = 0x3
  public static let version: UInt32 = 0x1
  public static let replyFlag: UInt32 = 0x4
  public static let needReplyFlag: UInt32 = 0x8

  public init(request: UInt32, flags: UInt32 = MessageHeader.version, size: UInt32) {
    self.request = request
    self.flags = flags
    self.size = size
  }

  /// The header in the first twelve bytes.
  /// - Throws: if what follows cannot be a request: the connection is over.
  public init(_ bytes: some RandomAccessCollection<UInt8>) throws(VhostUserError) {
    var reader = PayloadReader(bytes.prefix(MessageHeader.byteCount))
    request = reader.next32()
    flags = reader.next32()
    size = reader.next32()
    let version = flags & MessageHeader.versionMask
    guard version == MessageHeader.version else {
      throw .wrongVersion(request: request, version: version)
    }
    guard flags & MessageHeader.replyFlag == 0 else { throw .replyFromFrontEnd(request: request) }
    guard size <= MessageHeader.maximumPayload else {
      throw .payloadTooLarge(request: request, size: size, limit: MessageHeader.maximumPayload)
    }
  }

  /// The header as it goes over the wire.
  public var bytes: [UInt8] {
    var bytes: [UInt8] = []
    bytes.append(number: request)
    bytes.append(number: flags)
    bytes.append(number: size)
    return bytes
  }

  public var needsReply: Bool { flags & MessageHeader.needReplyFlag != 0 }
}

/// "A vring state description": a ring and a number.
public struct VringState: Equatable, Sendable {
  public var index: UInt32
  public var number: UInt32
  public init(index: UInt32, number: UInt32) {
    self.index = index
    self.number = number
  }
}

/// "A vring address description".
public struct VringAddresses: Equatable, Sendable {
  /// Bit 0 of `flags`, VHOST_VRING_F_LOG: writes to the used ring are logged from `log` on.
  public static let logFlag: UInt32 = 1

  public var index: UInt32
  public var flags: UInt32
  public var descriptorTable: FrontEndAddress
  public var usedRing: FrontEndAddress
  public var availRing: FrontEndAddress
  /// Guest-physical address of the used ring, for the log.
  public var log: GuestAddress
}

/// "A log description": where the log lies in the descriptor that comes with it, in bytes.
public struct LogDescription: Equatable, Sendable {
  public var size: UInt64
  public var offset: UInt64
}

/// "An IOTLB message".  Addresses and size in bytes; permission and type by their numbers in the
/// specification.
public struct IotlbMessage: Equatable, Sendable {
  public var iova: UInt64
  public var size: UInt64
  /// Virtual address in the front-end's process.
  public var frontEnd: FrontEndAddress
  /// 1: read, 2: write, 3: both.
  public var permission: UInt8
  public var type: UInt8

  static let miss: UInt8 = 1
  static let update: UInt8 = 2
  static let invalidate: UInt8 = 3
}

/// "A device configuration space description".
public struct ConfigAccess: Equatable, Sendable {
  public var offset: UInt32
  /// 0: by the guest, writable fields only; 1: restores after migration.
  public var flags: UInt32
  public var bytes: [UInt8]
}

/// "An inflight description": the region in the descriptor that comes with it, in bytes.
public struct InflightDescription: Equatable, Sendable {
  public var size: UInt64
  public var offset: UInt64
  public var queueCount: UInt16
  /// Entries of each queue.
  public var queueSize: UInt16
}

/// "Device state transfer parameters".
public struct DeviceStateTransfer: Equatable, Sendable {
  /// 0: save, the back-end writes; 1: load, the back-end reads.
  public var direction: UInt32
  /// 0: the device is stopped.
  public var phase: UInt32
}

/// Payload of SET_VRING_KICK, CALL and ERR.
public struct VringEvent: Equatable, Sendable {
  public var index: UInt32
  /// False: bit 8, "no descriptor", polling is used instead.
  public var hasDescriptor: Bool
}

/// A payload, by the forms that requests share.
public enum Payload: Equatable, Sendable {
  case empty
  case number(UInt64)
  case vringState(VringState)
  case vringAddresses(VringAddresses)
  case vringEvent(VringEvent)
  case memoryTable([MemoryRegionDescription])
  case memoryRegion(MemoryRegionDescription)
  case log(LogDescription)
  case iotlb(IotlbMessage)
  case config(ConfigAccess)
  case inflight(InflightDescription)
  case deviceState(DeviceStateTransfer)
  /// Of a request that is refused anyway: not looked into.
  case opaque

  /// The ring that the request is about.
  public var ring: UInt32? {
    switch self {
    case .vringState(let state): state.index
    case .vringAddresses(let addresses): addresses.index
    case .vringEvent(let event): event.index
    default: nil
    }
  }

  public enum Layout: Sendable {
    case empty, number, vringState, vringAddresses, vringEvent, memoryTable, memoryRegion
    case addedRegion, log, iotlb, config, inflight, deviceState, opaque
  }
}

/// A request whose form is right: known, of its size, with its number of descriptors.
public struct Message: Equatable, Sendable {
  public let request: UInt32
  public let payload: Payload

  public init(
    header: MessageHeader, payload bytes: [UInt8], descriptorCount: Int
  ) throws(VhostUserError) {
    guard let row = RequestTable.row(header.request) else {
      throw .unknownRequest(header.request)
    }
    request = header.request
    payload = try Payload(bytes, row.layout, request: row.name)
    guard row.descriptors.contains(descriptorCount) else {
      throw .wrongDescriptorCount(
        request: row.name, count: descriptorCount, expected: row.descriptors.text)
    }
    // Two payloads say themselves how many descriptors came with them.
    let said: Int? =
      switch payload {
      case .vringEvent(let event): event.hasDescriptor ? 1 : 0
      case .memoryTable(let regions): regions.count
      default: nil
      }
    if let said, said != descriptorCount {
      throw .wrongDescriptorCount(
        request: row.name, count: descriptorCount, expected: "\(said), which its payload says")
    }
  }
}

extension ClosedRange<Int> {
  fileprivate var text: String {
    lowerBound == upperBound ? "\(lowerBound)" : "\(lowerBound) to \(upperBound)"
  }
}
