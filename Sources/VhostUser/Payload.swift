// The bytes of a payload become a value: pure, and total over any bytes.
import GuestMemory

extension Payload {
  /// Bytes of one region in a memory table.
  static let regionSize = 32
  /// Most regions that SET_MEM_TABLE can hold.
  static let tableRegions = 8
  /// Bytes of configuration space that a message can hold.
  static let configLimit: UInt32 = 256

  init(
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
      self = .vringAddresses(
        VringAddresses(
          index: reader.next32(), flags: reader.next32(),
          descriptorTable: FrontEndAddress(reader.next64()),
          usedRing: FrontEndAddress(reader.next64()), availRing: FrontEndAddress(reader.next64()),
          log: GuestAddress(reader.next64())))
    case .vringEvent:
      try check(8)
      let value = reader.next64()
      self = .vringEvent(
        VringEvent(index: UInt32(value & 0xff), hasDescriptor: value & 0x100 == 0))
    case .addedRegion where bytes.count == 8:
      // The acknowledgement of our answer while memory is arriving (postcopy).
      self = .number(reader.next64())
    case .memoryRegion, .addedRegion:
      try check(8 + Payload.regionSize)
      _ = reader.next64()
      self = .memoryRegion(reader.nextRegion())
    case .memoryTable:
      self = .memoryTable(try Payload.memoryTable(bytes, request: request))
    case .log:
      try check(16)
      self = .log(LogDescription(size: reader.next64(), offset: reader.next64()))
    case .iotlb:
      // 26 bytes that a C compiler pads.
      try check(32)
      self = .iotlb(
        IotlbMessage(
          iova: reader.next64(), size: reader.next64(), frontEnd: FrontEndAddress(reader.next64()),
          permission: reader.next8(), type: reader.next8()))
    case .config:
      self = .config(try Payload.configAccess(bytes, request: request))
    case .inflight:
      // 20 bytes, which C compilers pad to 24 unless they are told to pack.
      if bytes.count != 20 { try check(24) }
      self = .inflight(
        InflightDescription(
          size: reader.next64(), offset: reader.next64(), queueCount: reader.next16(),
          queueSize: reader.next16()))
    case .deviceState:
      try check(8)
      self = .deviceState(
        DeviceStateTransfer(direction: reader.next32(), phase: reader.next32()))
    case .opaque:
      self = .opaque
    }
  }

  private static func configAccess(
    _ bytes: [UInt8], request: String
  ) throws(VhostUserError) -> ConfigAccess {
    guard bytes.count >= 12 else {
      throw .wrongSize(request: request, size: bytes.count, expected: "12 and those it is about")
    }
    var reader = PayloadReader(bytes)
    let (offset, size, flags) = (reader.next32(), reader.next32(), reader.next32())
    guard size <= configLimit else {
      throw .wrongValue(
        request: request, value: UInt64(size), allowed: "a size of 0 to \(configLimit) bytes")
    }
    guard bytes.count == 12 + Int(size) else {
      throw .wrongSize(request: request, size: bytes.count, expected: "\(12 + size)")
    }
    return ConfigAccess(offset: offset, flags: flags, bytes: Array(bytes.dropFirst(12)))
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

  mutating func next8() -> UInt8 { UInt8(truncatingIfNeeded: next(1)) }
  mutating func next16() -> UInt16 { UInt16(truncatingIfNeeded: next(2)) }
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
