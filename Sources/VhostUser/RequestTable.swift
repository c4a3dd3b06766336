// The protocol as data: every request that a front-end of a net device may send, once.
//
// A row says what a request looks like (its payload is that of its handler), how many descriptors
// come with it, which feature it needs, what must stand still while it is carried out, and who
// carries it out.  A request that is known but needs a feature which is never offered has no
// handler: its row is the seam for migration, in-flight recovery and configuration space.
// Specification: vhost-user, "Front-end message types".
import GuestMemory
import Linux

/// What must have been negotiated before a request is carried out.
enum Requirement: Sendable {
  case nothing
  /// The specification wants the bit in what the back-end offers, not acknowledged.
  case offered(ProtocolFeatures)
  case negotiated(ProtocolFeatures)
  /// ACCESS_PLATFORM: a vIOMMU.
  case accessPlatform
}

/// Which rings stand still while a request is carried out; those that can run start again after.
enum Quiescence: Sendable {
  case nothing
  case itsRing
  case everyRing
}

/// How a request is answered that is refused.
enum Refusal: Sendable {
  /// One, if the front-end asked for a reply.
  case negativeAcknowledge
  /// It waits for this in any case.
  case reply(Reply)
  /// It waits for this if the feature was negotiated, else only if it asked.
  case replyIfNegotiated(Reply, ProtocolFeatures)
  /// It waits for an answer, and none says "no": the connection ends.
  case endsConnection
}

/// Who carries a request out; the form of its payload follows from it.
enum Handler: Sendable {
  case empty(@Sendable (BackEnd) throws(VhostUserError) -> Reply)
  case descriptor(@Sendable (BackEnd, inout ReceivedDescriptors) throws(VhostUserError) -> Reply)
  case number(@Sendable (BackEnd, UInt64) throws(VhostUserError) -> Reply)
  case vringState(@Sendable (BackEnd, Int, UInt32) throws(VhostUserError) -> Reply)
  case vringAddresses(@Sendable (BackEnd, Int, VringAddresses) -> Reply)
  case vringEvent(@Sendable (BackEnd, Int, EventDescriptor?) -> Reply)
  case memoryTable(
    @Sendable (BackEnd, [MemoryRegionDescription], inout ReceivedDescriptors)
      throws(VhostUserError) -> Reply)
  case addedRegion(
    @Sendable (BackEnd, MemoryRegionDescription, inout ReceivedDescriptors)
      throws(VhostUserError) -> Reply)
  case removedRegion(
    @Sendable (BackEnd, MemoryRegionDescription) throws(VhostUserError) -> Reply)
  case log(
    @Sendable (BackEnd, LogDescription, inout ReceivedDescriptors) throws(VhostUserError) -> Reply)
  case iotlb(@Sendable (BackEnd, IotlbMessage) throws(VhostUserError) -> Reply)
  case config(@Sendable (BackEnd, ConfigAccess) throws(VhostUserError) -> Reply)
  case inflight(
    @Sendable (BackEnd, InflightDescription, inout ReceivedDescriptors)
      throws(VhostUserError) -> Reply)
  case deviceState(
    @Sendable (BackEnd, DeviceStateTransfer, inout ReceivedDescriptors)
      throws(VhostUserError) -> Reply)
  /// Never reached: the row needs a feature that is not offered.
  case none
}

struct RequestRow: Sendable {
  let request: UInt32
  let name: String
  let descriptors: ClosedRange<Int>
  let requires: Requirement
  let quiesces: Quiescence
  let refusal: Refusal
  let handler: Handler

  init(
    _ request: UInt32, _ name: String, descriptors: ClosedRange<Int> = 0...0,
    requires: Requirement = .nothing, quiesces: Quiescence = .nothing,
    refusal: Refusal = .negativeAcknowledge, _ handler: Handler
  ) {
    self.request = request
    self.name = name
    self.descriptors = descriptors
    self.requires = requires
    self.quiesces = quiesces
    self.refusal = refusal
    self.handler = handler
  }

  var layout: Payload.Layout {
    switch handler {
    case .empty, .descriptor: .empty
    case .number: .number
    case .vringState: .vringState
    case .vringAddresses: .vringAddresses
    case .vringEvent: .vringEvent
    case .memoryTable: .memoryTable
    case .addedRegion: .addedRegion
    case .removedRegion: .memoryRegion
    case .log: .log
    case .iotlb: .iotlb
    case .config: .config
    case .inflight: .inflight
    case .deviceState: .deviceState
    case .none: .opaque
    }
  }
}

package enum RequestTable {
  /// All of them, for who wants to know whether each was tried.
  package static var names: [String] { rows.map(\.name) }

  static func row(_ request: UInt32) -> RequestRow? {
    rows.first { $0.request == request }
  }

  static let rows: [RequestRow] = [
    RequestRow(1, "GET_FEATURES", refusal: .endsConnection, .empty { $0.getFeatures() }),
    RequestRow(
      2, "SET_FEATURES", quiesces: .everyRing,
      .number { back, features throws(VhostUserError) in try back.setFeatures(features) }),
    RequestRow(3, "SET_OWNER", .empty { _ in .acknowledge }),
    RequestRow(4, "RESET_OWNER", quiesces: .everyRing, .empty { $0.disableRings() }),
    RequestRow(
      5, "SET_MEM_TABLE", descriptors: 0...8, quiesces: .everyRing,
      .memoryTable { back, regions, files throws(VhostUserError) in
        try back.setMemoryTable(regions, &files)
      }),
    RequestRow(
      6, "SET_LOG_BASE", descriptors: 0...1, requires: .negotiated(.logShmfd),
      quiesces: .everyRing, refusal: .replyIfNegotiated(.number(1), .logShmfd),
      .log { back, log, files throws(VhostUserError) in try back.setLog(log, &files) }),
    RequestRow(
      7, "SET_LOG_FD", descriptors: 0...1, requires: .negotiated(.logShmfd), quiesces: .everyRing,
      .descriptor { back, descriptors throws(VhostUserError) in
        try back.setLogEvent(&descriptors)
      }),
    RequestRow(
      8, "SET_VRING_NUM", quiesces: .itsRing,
      .vringState { back, ring, size throws(VhostUserError) in
        try back.setSize(ring, size)
      }),
    RequestRow(
      9, "SET_VRING_ADDR", quiesces: .itsRing, .vringAddresses { $0.setAddresses($1, $2) }),
    RequestRow(
      10, "SET_VRING_BASE", quiesces: .itsRing,
      .vringState { back, ring, base throws(VhostUserError) in
        try back.setBase(ring, base)
      }),
    RequestRow(
      11, "GET_VRING_BASE", quiesces: .itsRing, refusal: .endsConnection,
      .vringState { back, ring, _ in back.takeBase(ring) }),
    RequestRow(
      12, "SET_VRING_KICK", descriptors: 0...1, quiesces: .itsRing,
      .vringEvent { $0.setKick($1, $2) }),
    RequestRow(
      13, "SET_VRING_CALL", descriptors: 0...1, quiesces: .itsRing,
      .vringEvent { $0.setCall($1, $2) }),
    RequestRow(
      14, "SET_VRING_ERR", descriptors: 0...1, quiesces: .itsRing,
      .vringEvent { $0.setError($1, $2) }),
    RequestRow(
      15, "GET_PROTOCOL_FEATURES", refusal: .endsConnection,
      .empty { .number($0.device.offeredProtocolFeatures.rawValue) }),
    RequestRow(
      16, "SET_PROTOCOL_FEATURES",
      .number { back, value throws(VhostUserError) in try back.setProtocolFeatures(value) }),
    RequestRow(
      17, "GET_QUEUE_NUM", requires: .offered(.mq), refusal: .endsConnection,
      .empty { .number(UInt64($0.queueNumber)) }),
    RequestRow(
      18, "SET_VRING_ENABLE", quiesces: .itsRing,
      .vringState { back, ring, enabled throws(VhostUserError) in
        try back.setEnabled(ring, enabled)
      }),
    RequestRow(19, "SEND_RARP", requires: .offered(.rarp), .number { $0.announce($1) }),
    RequestRow(
      20, "NET_SET_MTU", requires: .offered(.mtu),
      .number { back, mtu throws(VhostUserError) in try back.setMTU(mtu) }),
    RequestRow(
      21, "SET_BACKEND_REQ_FD", descriptors: 1...1, requires: .offered(.backendReq),
      quiesces: .everyRing,
      .descriptor { back, sockets throws(VhostUserError) in try back.setChannel(&sockets) }),
    RequestRow(
      22, "IOTLB_MSG", requires: .accessPlatform, refusal: .reply(.number(1)),
      .iotlb { back, message throws(VhostUserError) in try back.changeTranslations(message) }),
    RequestRow(23, "SET_VRING_ENDIAN", requires: .negotiated(.crossEndian), .none),
    RequestRow(
      24, "GET_CONFIG", requires: .negotiated(.config), refusal: .reply(.empty),
      .config { back, access throws(VhostUserError) in try back.getConfig(access) }),
    RequestRow(
      25, "SET_CONFIG", requires: .negotiated(.config),
      .config { back, access throws(VhostUserError) in try back.setConfig(access) }),
    RequestRow(
      28, "POSTCOPY_ADVISE", requires: .negotiated(.pagefault), refusal: .reply(.empty),
      .empty { back throws(VhostUserError) in try back.advisePostcopy() }),
    RequestRow(
      29, "POSTCOPY_LISTEN", requires: .negotiated(.pagefault), quiesces: .everyRing,
      .empty { back throws(VhostUserError) in try back.listenPostcopy() }),
    RequestRow(
      30, "POSTCOPY_END", requires: .negotiated(.pagefault), quiesces: .everyRing,
      refusal: .reply(.number(1)),
      .empty { $0.endPostcopy() }),
    // An area of size zero says that there is none.
    RequestRow(
      31, "GET_INFLIGHT_FD", requires: .negotiated(.inflightShmfd), refusal: .reply(.zeros(24)),
      .inflight { back, wanted, _ throws(VhostUserError) in try back.makeInflightArea(wanted) }),
    RequestRow(
      32, "SET_INFLIGHT_FD", descriptors: 1...1, requires: .negotiated(.inflightShmfd),
      quiesces: .everyRing,
      .inflight { back, area, files throws(VhostUserError) in
        try back.setInflightArea(area, &files)
      }),
    RequestRow(
      34, "RESET_DEVICE", requires: .offered(.resetDevice), quiesces: .everyRing,
      .empty { $0.resetDevice() }),
    RequestRow(
      35, "VRING_KICK", requires: .negotiated(.inbandNotifications),
      .vringState { back, ring, number throws(VhostUserError) in try back.kick(ring, number) }),
    RequestRow(
      36, "GET_MAX_MEM_SLOTS", requires: .offered(.configureMemSlots), refusal: .endsConnection,
      .empty { _ in .number(UInt64(GuestMemory.maximumRegions)) }),
    // Without a descriptor: see BackEnd+Postcopy.swift.
    RequestRow(
      37, "ADD_MEM_REG", descriptors: 0...1, requires: .negotiated(.configureMemSlots),
      quiesces: .everyRing,
      .addedRegion { back, region, files throws(VhostUserError) in
        try back.addRegion(region, &files)
      }),
    // Some front-ends send a descriptor here too; it is closed unused.
    RequestRow(
      38, "REM_MEM_REG", descriptors: 0...1, requires: .negotiated(.configureMemSlots),
      quiesces: .everyRing,
      .removedRegion { back, region throws(VhostUserError) in try back.removeRegion(region) }),
    // Only a reset touches the rings, and it stops them itself.
    RequestRow(
      39, "SET_STATUS", requires: .negotiated(.status),
      .number { back, status throws(VhostUserError) in try back.setStatus(status) }),
    RequestRow(
      40, "GET_STATUS", requires: .offered(.status), refusal: .endsConnection,
      .empty { .number(UInt64($0.status)) }),
    // Bits 0 to 7: an error; bit 8: no descriptor comes back.
    RequestRow(
      42, "SET_DEVICE_STATE_FD", descriptors: 0...1, requires: .negotiated(.deviceState),
      refusal: .reply(.number(0x101)),
      .deviceState { back, transfer, files throws(VhostUserError) in
        try back.beginStateTransfer(transfer, &files)
      }),
    RequestRow(
      43, "CHECK_DEVICE_STATE", requires: .negotiated(.deviceState), refusal: .reply(.number(1)),
      .empty { back throws(VhostUserError) in try back.checkStateTransfer() }),
  ]
}
