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

/// "A vring address description"; its flags and log address belong to migration.
public struct VringAddresses: Equatable, Sendable {
  public var index: UInt32
  public var descriptorTable: FrontEndAddress
  public var usedRing: FrontEndAddress
  public var availRing: FrontEndAddress
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
    case empty, number, vringState, vringAddresses, vringEvent, memoryTable, memoryRegion, opaque
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

extension Payload {
  /// Bytes of one region in a memory table.
  static let regionSize = 32
  /// Most regions that SET_MEM_TABLE can hold.
  static let tableRegions = 8

  fileprivate init(
    _ bytes: [UInt8], _ layout: Layout, request: String
  ) throws(VhostUserError) {
    func check(_ size: Int) throws(VhostUserError) {
      guard bytes.count == size else {
        throw .wrongSize(request: request, size: bytes.count, expected: "\(size)")
      }
    }
    var reader = PayloadReader(bytes)
    switch layout {
    case .empty:
      try check(0)
      self = .empty
    case .number:
      try check(8)
      self = .number(reader.next64())
    case .vringState:
      try check(8)
      self = .vringState(VringState(index: reader.next32(), number: reader.next32()))
    case .vringAddresses:
      try check(40)
      let index = reader.next32()
      _ = reader.next32()
      self = .vringAddresses(
        VringAddresses(
          index: index, descriptorTable: FrontEndAddress(reader.next64()),
          usedRing: FrontEndAddress(reader.next64()), availRing: FrontEndAddress(reader.next64())))
    case .vringEvent:
      try check(8)
      let value = reader.next64()
      self = .vringEvent(
        VringEvent(index: UInt32(value & 0xff), hasDescriptor: value & 0x100 == 0))
    case .memoryRegion:
      try check(8 + Payload.regionSize)
      _ = reader.next64()
      self = .memoryRegion(reader.nextRegion())
    case .memoryTable:
      self = .memoryTable(try Payload.memoryTable(bytes, request: request))
    case .opaque:
      self = .opaque
    }
  }

  private static func memoryTable(
    _ bytes: [UInt8], request: String
  ) throws(VhostUserError) -> [MemoryRegionDescription] {
    guard bytes.count >= 8 else {
      throw .wrongSize(request: request, size: bytes.count, expected: "8 and 32 for each region")
    }
    var reader = PayloadReader(bytes)
    let count = reader.next32()
    _ = reader.next32()
    guard count <= tableRegions else {
      throw .wrongValue(
        request: request, value: UInt64(count), allowed: "a count of 0 to \(tableRegions) regions")
    }
    // Front-ends that send the specification's whole array of eight are right too.
    let size = 8 + Int(count) * regionSize
    guard bytes.count == size || bytes.count == 8 + tableRegions * regionSize else {
      throw .wrongSize(request: request, size: bytes.count, expected: "\(size)")
    }
    return (0..<count).map { _ in reader.nextRegion() }
  }
}

/// Reads numbers one after the other; beyond the end there are zeros.
struct PayloadReader<Bytes: RandomAccessCollection<UInt8>> {
  private var rest: Bytes.SubSequence

  init(_ bytes: Bytes) { rest = bytes[...] }

  mutating func next32() -> UInt32 { UInt32(truncatingIfNeeded: next(4)) }
  mutating func next64() -> UInt64 { next(8) }

  mutating func nextRegion() -> MemoryRegionDescription {
    MemoryRegionDescription(
      guest: GuestAddress(next64()), size: next64(), frontEnd: FrontEndAddress(next64()),
      offset: next64())
  }

  private mutating func next(_ size: Int) -> UInt64 {
    var value: UInt64 = 0
    for (i, byte) in rest.prefix(size).enumerated() { value |= UInt64(byte) << UInt64(8 * i) }
    rest = rest.dropFirst(size)
    return value
  }
}

extension [UInt8] {
  mutating func append(number: some FixedWidthInteger & UnsignedInteger) {
    for i in 0..<number.bitWidth / 8 { append(UInt8(truncatingIfNeeded: number >> (8 * i))) }
  }
}

extension ClosedRange<Int> {
  fileprivate var text: String {
    lowerBound == upperBound ? "\(lowerBound)" : "\(lowerBound) to \(upperBound)"
  }
}
