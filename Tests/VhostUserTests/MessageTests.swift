import GuestMemory
import Testing

@testable import VhostUser

@Suite("Messages")
struct MessageTests {
  private func message(
    _ request: UInt32, _ payload: [UInt8], descriptors: Int = 0
  ) throws -> Message {
    try Message(
      header: MessageHeader(request: request, size: UInt32(payload.count)), payload: payload,
      descriptorCount: descriptors)
  }

  @Test("a header is three numbers in the machine's byte order")
  func header() throws {
    let header = try MessageHeader([2, 0, 0, 0, 9, 0, 0, 0, 8, 0, 0, 0])
    #expect(header == MessageHeader(request: 2, flags: 9, size: 8))
    #expect(header.needsReply)
    #expect(header.bytes == [2, 0, 0, 0, 9, 0, 0, 0, 8, 0, 0, 0])
  }

  @Test("a header with another version, the reply flag or an impossible size ends the connection")
  func badHeaders() {
    #expect(throws: VhostUserError.wrongVersion(request: 1, version: 2)) {
      try MessageHeader(MessageHeader(request: 1, flags: 2, size: 0).bytes)
    }
    #expect(throws: VhostUserError.replyFromFrontEnd(request: 1)) {
      try MessageHeader(MessageHeader(request: 1, flags: 5, size: 0).bytes)
    }
    #expect(throws: VhostUserError.payloadTooLarge(request: 1, size: 4097, limit: 4096)) {
      try MessageHeader(MessageHeader(request: 1, flags: 1, size: 4097).bytes)
    }
    #expect(VhostUserError.wrongVersion(request: 1, version: 2).endsConnection)
    #expect(VhostUserError.replyFromFrontEnd(request: 1).endsConnection)
    #expect(VhostUserError.payloadTooLarge(request: 1, size: 4097, limit: 4096).endsConnection)
  }

  /// Payload size and number of descriptors of every request with a handler, as the specification
  /// has them.
  static let forms: [(request: UInt32, size: Int, descriptors: Int)] = [
    (1, 0, 0), (2, 8, 0), (3, 0, 0), (4, 0, 0), (5, 8, 0), (8, 8, 0), (9, 40, 0), (10, 8, 0),
    (11, 8, 0), (12, 8, 1), (13, 8, 1), (14, 8, 1), (15, 0, 0), (16, 8, 0), (17, 0, 0), (18, 8, 0),
    (19, 8, 0), (20, 8, 0), (21, 0, 1), (34, 0, 0), (36, 0, 0), (37, 40, 1), (38, 40, 0),
    (39, 8, 0), (40, 0, 0),
  ]

  @Test("each request has one size, and is refused with a byte less or more", arguments: forms)
  func sizes(request: UInt32, size: Int, descriptors: Int) throws {
    let payload = [UInt8](repeating: 0, count: size)
    #expect(try message(request, payload, descriptors: descriptors).request == request)
    for wrong in [size - 1, size + 1] where wrong >= 0 {
      let error = #expect(throws: VhostUserError.self) {
        try message(request, [UInt8](repeating: 0, count: wrong), descriptors: descriptors)
      }
      guard case .wrongSize(_, wrong, _) = error else {
        Issue.record("\(String(describing: error))")
        continue
      }
    }
  }

  @Test("each request is refused with a descriptor too many", arguments: forms)
  func descriptorCounts(request: UInt32, size: Int, descriptors: Int) throws {
    let payload = [UInt8](repeating: 0, count: size)
    let most = request == 38 ? 1 : descriptors
    let error = #expect(throws: VhostUserError.self) {
      try message(request, payload, descriptors: most + 1)
    }
    guard case .wrongDescriptorCount(_, most + 1, _) = error else {
      Issue.record("\(String(describing: error))")
      return
    }
    #expect(!error!.endsConnection)
  }

  @Test("REM_MEM_REG may bring a descriptor")
  func removeWithDescriptor() throws {
    #expect(throws: Never.self) {
      try message(38, [UInt8](repeating: 0, count: 40), descriptors: 1)
    }
  }

  @Test("a vring state is a ring and a number")
  func vringState() throws {
    #expect(
      try message(8, state(3, 256)).payload == .vringState(VringState(index: 3, number: 256)))
  }

  @Test("a vring address has descriptor, used and available in this order")
  func vringAddresses() throws {
    let payload = try message(9, bytes(1, 0x1000, 0x2000, 0x3000, 0x4000)).payload
    #expect(
      payload
        == .vringAddresses(
          VringAddresses(
            index: 1, flags: 0, descriptorTable: FrontEndAddress(0x1000),
            usedRing: FrontEndAddress(0x2000), availRing: FrontEndAddress(0x3000),
            log: GuestAddress(0x4000))))
  }

  @Test("a configuration access says how many bytes it is about")
  func configAccess() throws {
    func access(_ size: UInt32, _ bytes: [UInt8]) throws(VhostUserError) -> Payload {
      var raw: [UInt8] = []
      for number in [4, size, 1] { raw.append(number: UInt32(number)) }
      return try Payload(raw + bytes, .config, request: "SET_CONFIG")
    }
    #expect(try access(2, [7, 8]) == .config(ConfigAccess(offset: 4, flags: 1, bytes: [7, 8])))
    #expect(throws: VhostUserError.self) { try access(3, [7, 8]) }
    #expect(throws: VhostUserError.self) { try access(2, []) }
    #expect(throws: VhostUserError.self) { try access(257, [UInt8](repeating: 0, count: 257)) }
    #expect(throws: VhostUserError.self) { try Payload([1, 2], .config, request: "SET_CONFIG") }
  }

  @Test("an inflight description may be padded", arguments: [20, 24])
  func inflight(size: Int) throws {
    var raw: [UInt8] = []
    raw.append(number: UInt64(0x1000))
    raw.append(number: UInt64(0x2000))
    raw.append(number: UInt16(3))
    raw.append(number: UInt16(256))
    raw += [UInt8](repeating: 0, count: size - 20)
    #expect(
      try Payload(raw, .inflight, request: "SET_INFLIGHT_FD")
        == .inflight(
          InflightDescription(size: 0x1000, offset: 0x2000, queueCount: 3, queueSize: 256)))
    #expect(throws: VhostUserError.self) {
      try Payload(raw + [0], .inflight, request: "SET_INFLIGHT_FD")
    }
  }

  @Test("an IOTLB message has its permission and type behind three addresses")
  func iotlb() throws {
    var raw: [UInt8] = []
    for number in [0x1000, 0x2000, 0x3000, 0x0203] { raw.append(number: UInt64(number)) }
    #expect(
      try Payload(raw, .iotlb, request: "IOTLB_MSG")
        == .iotlb(
          IotlbMessage(
            iova: 0x1000, size: 0x2000, frontEnd: FrontEndAddress(0x3000), permission: 3, type: 2)))
  }

  @Test("bit 8 of a kick says whether a descriptor came, and must be right")
  func kickDescriptor() throws {
    #expect(
      try message(12, bytes(2), descriptors: 1).payload
        == .vringEvent(VringEvent(index: 2, hasDescriptor: true)))
    #expect(
      try message(12, bytes(0x102)).payload
        == .vringEvent(VringEvent(index: 2, hasDescriptor: false)))
    #expect(throws: VhostUserError.self) { try message(12, bytes(2)) }
    #expect(throws: VhostUserError.self) { try message(12, bytes(0x102), descriptors: 1) }
  }

  @Test("a memory table has as many regions as descriptors, with or without the unused ones")
  func memoryTable() throws {
    let regions = [MemoryRegionDescription.megabyte, .secondMegabyte]
    #expect(
      try message(5, table(regions), descriptors: 2).payload == .memoryTable(regions))
    let full = table(regions) + [UInt8](repeating: 0, count: 6 * 32)
    #expect(try message(5, full, descriptors: 2).payload == .memoryTable(regions))
    #expect(throws: VhostUserError.self) { try message(5, table(regions), descriptors: 1) }
    #expect(throws: VhostUserError.self) { try message(5, table(regions) + [0], descriptors: 2) }
    #expect(throws: VhostUserError.self) {
      try message(5, Array(table(regions).dropLast()), descriptors: 2)
    }
    #expect(throws: VhostUserError.self) { try message(5, bytes(9), descriptors: 8) }
    #expect(throws: VhostUserError.self) { try message(5, bytes(UInt64(UInt32.max))) }
  }

  @Test("a single region comes after eight bytes of padding")
  func memoryRegion() throws {
    let payload = bytes(0) + region(.secondMegabyte)
    #expect(try message(37, payload, descriptors: 1).payload == .memoryRegion(.secondMegabyte))
  }

  @Test("an unknown request is named by its number")
  func unknown() {
    let error = #expect(throws: VhostUserError.self) { try message(99, []) }
    #expect(error == .unknownRequest(99))
    #expect(error?.endsConnection == false)
  }

  @Test("no request is in the table twice, and those without a handler need a missing feature")
  func requestTable() {
    let rows = RequestTable.rows
    #expect(Set(rows.map(\.request)).count == rows.count)
    #expect(Set(rows.map(\.name)).count == rows.count)
    for row in rows {
      guard case .none = row.handler else { continue }
      switch row.requires {
      case .negotiated(let feature):
        #expect(feature.isDisjoint(with: .offered), "\(row.name)")
      case .accessPlatform: break
      default: Issue.record("\(row.name) can be asked for and has no handler")
      }
    }
  }

  @Test("protocol features have the names and numbers of the specification")
  func featureNames() {
    #expect(
      ProtocolFeatures.offered.union(.pagefault).namesOfBits == [
        "MQ", "LOG_SHMFD", "RARP", "REPLY_ACK", "MTU", "BACKEND_REQ", "PAGEFAULT",
        "INFLIGHT_SHMFD", "RESET_DEVICE", "INBAND_NOTIFICATIONS",
        "CONFIGURE_MEM_SLOTS", "STATUS", "DEVICE_STATE", "GET_VRING_BASE_INFLIGHT", "GPA_ADDRESSES",
      ])
    #expect(ProtocolFeatures.offered.rawValue == 0x39f03f)
    #expect(ProtocolFeatures.postcopy.isSubset(of: .pagefault))
    #expect(
      ProtocolFeatures(rawValue: 1 << 20 | 1 << 40).namesOfBits
        == ["GET_VRING_BASE_INFLIGHT", "bit 40"])
  }
}
