// One session with a front-end, from its connection to its end (vhost-user specification).
//
// Each request goes the same way: bytes to message (`Connection`, `Message`), a look into the
// request table, then: may it be asked now?, which rings must stand still?, its handler, start
// again what can run, answer.  A ring that runs belongs to the device, so nothing that a handler
// changes is in use while it changes; an acknowledgement is sent after the device is quiet or
// running again, which is what makes it true.
//
// Rules that the handlers share:
// - A request that is refused has changed nothing.
// - Features replace what was negotiated before, and only offered bits count.
// - Memory, call and error descriptors survive a reset, see `resetDevice` and `Vring.reset`.
// - When the session ends, for whatever reason, the rings are stopped, then the memory is
//   released, then everything that the front-end sent is closed.
//
// Hostile: the front-end.  All of it runs on the control thread and nothing waits for the peer.  What
// it does behind our back (memory that is cut) comes by its alarm.
public import Linux
import Virtqueue
import GuestMemory

/// How much a log line matters.
public enum LogLevel: String, Comparable, Sendable, CaseIterable {
  case debug, info, warning, error

  public static func < (a: LogLevel, b: LogLevel) -> Bool {
    allCases.firstIndex(of: a)! < allCases.firstIndex(of: b)!
  }
}

public final class BackEnd {
  /// Refused requests that are logged, for each session: a front-end must not fill a disk.
  static let loggedRefusals = 32

  let device: any Device
  private let log: (LogLevel, String) -> Void
  private let connected: (String) -> Void
  private var connection: Connection?

  var rings: [Vring]
  var memory = GuestMemory.empty { didSet { moveTranslations() } }
  /// Offered and acknowledged, with PROTOCOL_FEATURES.
  var features: VirtioFeatures = []
  var protocolFeatures: ProtocolFeatures = []
  /// Device status of the driver (virtio 1.3, 2.1).
  var status: UInt8 = 0
  var channel: BackEndChannel?
  /// With INBAND_NOTIFICATIONS.
  var inband: InbandNotifications?
  /// What the front-end keeps for us beyond our death; nil: nothing.
  var inflight: InflightArea?
  /// An area that was handed out and has not come back yet: kept open until it is sent.
  var lentInflightFile: OwnedDescriptor?
  /// Nil: this process had no descriptor left for it, and ACCESS_PLATFORM is not offered.
  var iotlb: Iotlb?
  /// Everything that the session waits for.
  private(set) var events: EpollSet?
  var migration = MigrationLog()
  var postcopy: PostcopyState?
  var deviceState = DeviceStateChannel()
  /// Raised where nothing may wait: by the data path, or a signal handler.
  let alarm = PeerAlarm()
  /// Whether the alarm makes `descriptor` readable.  When this process had no descriptor left for that,
  /// somebody has to look.
  var isAlarmWatched = false
  /// How long somebody who has to look waits before the next look, in milliseconds.
  var alarmPatience: UInt64 = 1000
  private var lastLook = MonotonicClock.milliseconds
  /// How long a message may take from its first byte to its last, in milliseconds.
  var messagePatience: UInt64 = 5000
  /// How long a page may keep the control thread, in milliseconds.
  var pagePatience = Postcopy.patience
  /// It has said that it has something to do.
  var isThreadBusy = false
  /// For how long requests are carried out before others get their turn, in milliseconds.
  var turn: UInt64 = 20
  private let begun = MonotonicClock.milliseconds
  private var hasSpoken = false

  private var refusals = 0
  private var unknownRequests: Set<UInt32> = []
  private var lastSummary: String?
  private let lineLimit: LogLimit

  /// - Parameters:
  ///   - socket: the connection, which the session owns and closes at its end.
  ///   - limit: of all sessions together: to connect again is no way around it.
  ///   - log: takes lines for people.
  ///   - connected: takes `connectionSummary` when the first ring starts and whenever it is
  ///     another one afterwards.
  public init(
    device: any Device, socket: consuming UnixSocket, limit: LogLimit = LogLimit(),
    log: @escaping (LogLevel, String) -> Void, connected: @escaping (String) -> Void = { _ in }
  ) {
    self.device = device
    lineLimit = limit
    self.log = log
    self.connected = connected
    let raw = socket.raw
    connection = Connection(socket)
    rings = (0..<device.ringCount).map(Vring.init(index:))
    do throws(Errno) {
      let iotlb = try Iotlb()
      let events = try EpollSet()
      try events.add(raw, .readable, tag: 0)
      try events.add(iotlb.misses.wakeUp.raw, .readable, tag: 0)
      if let raised = alarm.descriptor { try events.add(raised, .readable, tag: 0) }
      self.iotlb = iotlb
      self.events = consume events
      isAlarmWatched = alarm.descriptor != nil
    } catch { events = nil }
  }

  deinit { end() }

  /// For an epoll set (readable, level-triggered); nil after the end.
  public var descriptor: Int32? {
    guard let raw = connection?.raw else { return nil }
    return events?.raw ?? raw
  }
  /// The connection itself.
  var socketDescriptor: Int32? { connection?.raw }
  /// After so many milliseconds `handleReadable` is to be called although nothing is readable; nil:
  /// there is no need to.
  public var patience: UInt64? {
    let now = MonotonicClock.milliseconds
    func rest(of patience: UInt64, since: UInt64) -> UInt64 {
      patience - min(patience, now &- since)
    }
    let message = (connection?.partSince ?? nil).map { rest(of: messagePatience, since: $0) }
    if isAlarmWatched || connection == nil { return message }
    return min(rest(of: alarmPatience, since: lastLook), message ?? .max)
  }
  /// For how long the front-end has been connected without a request, in milliseconds; nil: it has
  /// made one.
  public var silence: UInt64? { hasSpoken ? nil : MonotonicClock.milliseconds &- begun }
  /// The front-end's process, if the kernel told.
  public var peerProcess: Int? { connection?.peerProcess ?? nil }
  /// Whether the session is over.
  public var hasEnded: Bool { connection == nil }
  /// Rings that the device has now.
  public var startedRings: [Int] { rings.filter(\.isStarted).map(\.index) }

  public enum Progress: Equatable, Sendable {
    /// Nothing more to do until the socket is readable again.
    case waiting
    /// The front-end left; the session has ended.
    case closed
  }

  /// Carries out the requests that have arrived, but at most 64 and for 20 ms, so that a front-end
  /// cannot keep the control thread for itself: the rest is reported again.
  /// - Throws: what ended the session, which has ended then.
  public func handleReadable() throws(VhostUserError) -> Progress {
    do throws(VhostUserError) {
      try checkAlarm()
      serveTranslations()
      tellNotifications()
      let begin = MonotonicClock.milliseconds
      for _ in 0..<64 where MonotonicClock.milliseconds &- begin < turn {
        guard connection != nil else { return .closed }
        switch try connection!.next() {
        case .waiting:
          try connection!.checkProgress(within: messagePatience)
          settleTranslations()
          tellNotifications()
          return .waiting
        case .closed:
          end()
          return .closed
        case .message(var message):
          hasSpoken = true
          try handle(&message)
        }
      }
      return .waiting
    } catch {
      end()
      throw error
    }
  }

  private func checkAlarm() throws(VhostUserError) {
    lastLook = MonotonicClock.milliseconds
    let reasons = alarm.reasons
    if reasons.contains(.memoryLost) { throw .memoryLost }
    if reasons.contains(.eventBlocked) { throw .eventBlocked }
    if reasons.contains(.pagesMissing) { throw .pagesMissing }
  }

  /// Ends the session.
  public func end() {
    guard connection != nil else { return }
    // First of all: a ring that waits for a page could not be stopped.
    abandonPostcopy()
    device.willChangeRings()
    rings.indices.forEach(stop)
    device.didChangeRings()
    for i in rings.indices { rings[i] = Vring(index: i) }
    memory = GuestMemory.empty
    dropLog()
    negotiate([])
    device.reset()
    device.frontEndLeft()
    inflight = nil
    lentInflightFile = nil
    channel = nil
    inband = nil
    migration = MigrationLog()
    deviceState = DeviceStateChannel()
    connection = nil
  }

  /// For people: what was negotiated, by name.  "no-linear-tx" says that transmit packets may come
  /// with no linear head, in any descriptor layout: header alone or not, packet cut anywhere.
  public var connectionSummary: String {
    let virtio = features.subtracting(.protocolFeatures).namesOfBits
    let names = protocolFeatures.namesOfBits
    let anyLayout = !features.isDisjoint(with: [.version1, .anyLayout])
    return "virtio features: \(virtio.isEmpty ? "none" : virtio.joined(separator: " "))"
      + "; vhost-user features: \(names.isEmpty ? "none" : names.joined(separator: " "))"
      + (anyLayout ? "; no-linear-tx" : "")
  }

  // MARK: One message

  private func handle(_ raw: inout RawMessage) throws(VhostUserError) {
    let code = raw.header.request
    let row = RequestTable.row(code)
    let reply: Reply
    do throws(VhostUserError) {
      let message = try Message(
        header: raw.header, payload: raw.payload, descriptorCount: raw.descriptors.count)
      guard let row else { throw .unknownRequest(code) }
      log(.debug, row.name)
      reply = try perform(row, message.payload, &raw.descriptors)
    } catch {
      try refuse(raw.header, row, error)
      return
    }
    // REPLY_ACK counts from the message on that negotiates it.
    if reply != .acknowledge || wantsAcknowledgement(raw.header) {
      try send(reply, code, row?.name ?? "")
    }
    reportConnection()
  }

  private func perform(
    _ row: RequestRow, _ payload: Payload, _ descriptors: inout ReceivedDescriptors
  ) throws(VhostUserError) -> Reply {
    try check(row)
    if let ring = payload.ring, ring >= UInt32(rings.count) {
      throw .noSuchRing(request: row.name, index: ring, ringCount: rings.count)
    }
    let ring = Int(payload.ring ?? 0)
    let quiet: Range<Int> =
      switch row.quiesces {
      case .nothing: 0..<0
      case .itsRing: ring..<ring + 1
      case .everyRing: rings.indices
      }
    device.willChangeRings()
    quiet.forEach(stop)
    defer {
      quiet.forEach(startIfComplete)
      device.didChangeRings()
    }
    switch (row.handler, payload) {
    case (.empty(let run), .empty): return try run(self)
    case (.descriptor(let run), .empty): return try run(self, &descriptors)
    case (.number(let run), .number(let number)): return try run(self, number)
    case (.vringState(let run), .vringState(let state)):
      return try run(self, ring, state.number)
    case (.vringAddresses(let run), .vringAddresses(let addresses)):
      return run(self, ring, addresses)
    case (.vringEvent(let run), .vringEvent):
      return run(self, ring, try takeEvent(of: &descriptors, request: row.name))
    case (.memoryTable(let run), .memoryTable(let regions)):
      return try run(self, regions, &descriptors)
    case (.removedRegion(let run), .memoryRegion(let region)): return try run(self, region)
    case (.addedRegion(let run), .memoryRegion(let region)):
      return try run(self, region, &descriptors)
    case (.log(let run), .log(let log)): return try run(self, log, &descriptors)
    case (.iotlb(let run), .iotlb(let message)): return try run(self, message)
    case (.config(let run), .config(let access)): return try run(self, access)
    case (.inflight(let run), .inflight(let region)): return try run(self, region, &descriptors)
    case (.deviceState(let run), .deviceState(let transfer)):
      return try run(self, transfer, &descriptors)
    case (.addedRegion, .number(let number)):
      return try acknowledgePostcopy(number, request: row.name)
    default: throw .unknownRequest(row.request)
    }
  }

  /// The next descriptor that came with a request; nil if there is none.
  func take(
    _ kind: DescriptorKind, of descriptors: inout ReceivedDescriptors, request: String
  ) throws(VhostUserError) -> OwnedDescriptor? {
    let taken: OwnedDescriptor?
    do throws(WrongDescriptorKind) { taken = try descriptors.takeFirst(kind) } catch {
      throw .wrongDescriptor(request: request, error)
    }
    guard let taken else { return nil }
    if let own = connection?.raw, UnixSocket.isOtherEnd(taken.raw, of: own) {
      throw .ownEnd(request: request)
    }
    return taken
  }

  /// The same, of an event to be signalled.
  func takeEvent(
    of descriptors: inout ReceivedDescriptors, request: String
  ) throws(VhostUserError) -> EventDescriptor? {
    do throws(WrongDescriptorKind) { return try descriptors.takeFirstEvent(of: alarm) } catch {
      throw .wrongDescriptor(request: request, error)
    }
  }

  private func check(_ row: RequestRow) throws(VhostUserError) {
    let missing: String? =
      switch row.requires {
      case .nothing: nil
      case .offered(let needed):
        device.offeredProtocolFeatures.contains(needed) ? nil : needed.namesOfBits.joined()
      case .negotiated(let needed):
        protocolFeatures.contains(needed) ? nil : needed.namesOfBits.joined()
      case .accessPlatform:
        features.contains(.accessPlatform) ? nil : "ACCESS_PLATFORM"
      }
    if let missing { throw .featureMissing(request: row.name, feature: missing) }
  }

  // MARK: Answers

  private func wantsAcknowledgement(_ header: MessageHeader) -> Bool {
    header.needsReply && protocolFeatures.contains(.replyAck)
  }

  private func send(_ reply: Reply, _ request: UInt32, _ name: String) throws(VhostUserError) {
    guard connection != nil else { return }
    try connection!.send(
      reply.bytes(for: request), lending: reply.descriptor, request: name)
  }

  /// Refuses a request, in the way that its row says; ends the session if nothing else is left.
  private func refuse(
    _ header: MessageHeader, _ row: RequestRow?, _ error: VhostUserError
  ) throws(VhostUserError) {
    if error.endsConnection { throw error }
    logRefusal(error)
    switch row?.refusal ?? .negativeAcknowledge {
    case .replyIfNegotiated(let reply, let needed) where protocolFeatures.contains(needed):
      try send(reply, header.request, row?.name ?? "")
    case .reply(let reply): try send(reply, header.request, row?.name ?? "")
    case .negativeAcknowledge, .replyIfNegotiated:
      if wantsAcknowledgement(header) {
        try send(.number(1), header.request, row?.name ?? "request \(header.request)")
      }
    case .endsConnection:
      throw .cannotAnswer(request: row?.name ?? "", why: error.description)
    }
  }

  private func logRefusal(_ error: VhostUserError) {
    if case .unknownRequest(let code) = error {
      guard unknownRequests.count < BackEnd.loggedRefusals, unknownRequests.insert(code).inserted
      else { return }
    } else {
      refusals += 1
      guard refusals <= BackEnd.loggedRefusals else { return }
    }
    warn("refused: \(error)")
    if refusals == BackEnd.loggedRefusals { warn("further refusals are not logged") }
  }

  /// A front-end can cause lines as fast as it sends.
  func warn(_ line: String) {
    if let line = lineLimit.admit(line) { log(.warning, line) }
  }

  private func reportConnection() {
    guard rings.contains(where: \.isStarted) else { return }
    let summary = connectionSummary
    guard summary != lastSummary else { return }
    lastSummary = summary
    if let line = lineLimit.admit(summary) { connected(line) }
  }
}
