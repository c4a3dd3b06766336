// The control thread: one epoll loop over the listening socket, the session with the front-end,
// the interface's events and signals.
//
// Everything that is configured belongs to this thread, from the port to the rings that do not
// run, so nothing here is locked.  Front-ends come and go without end: one that leaves, crashes or
// breaks the protocol costs its session, never the daemon.
import AFXDP
import Glibc
import HostPort
import Linux
import Logging
import VhostUser
import VirtioNet

struct ControlLoop: ~Copyable {
  /// What a descriptor in the epoll set is.  Sessions are counted upwards from `firstSession`, so
  /// that an event of one that has ended is not taken for its successor's.
  private enum Tag {
    static let signal: UInt64 = 0
    static let owner: UInt64 = 2
    static let link: UInt64 = 3
    static let listener: UInt64 = 4
    static let control: UInt64 = 5
    static let firstSession: UInt64 = 16
  }

  /// For a control queue without a kick descriptor.
  private static let pollInterval: Int32 = 10

  /// A front-end that has made no request for so long keeps no other one from its place.
  private static let longestSilence: UInt64 = 5000

  private let endpoint: Listener.Endpoint

  private let signals: SignalDescriptor
  private let manager: ServiceNotification
  /// When the service manager is to be told next that all is well.
  private var signOfLifeAt: UInt64 = 0
  private let logger: Logger
  private let host: HostSide
  private let device: NetDevice
  private let listener: Listener
  private let epoll: EpollSet
  private let start = ContinuousClock.now
  private var session: BackEnd?
  private var sessionTag = Tag.firstSession
  private var lastFailure: UnixSocketError?
  private var frontEnds = FrontEndCounters()
  private var hasCarrier: Bool
  private var watch: InterfaceWatch?
  /// When to look at the interface next: not every change of it is told.
  private var lookAt: UInt64 = 0
  private static let lookInterval: UInt64 = 5000
  // Of all connections together: whoever may connect could fill the log by connecting again and again.
  // Apart: who is refused must not hide why somebody else was disconnected.
  private let refusals = LogLimit()
  private let disconnections = LogLimit()
  /// Of what sessions say.
  private let sessionLines = LogLimit()
  /// Nil: front-ends of all users.
  private let allowedUsers: Set<UInt32>?
  /// The first front-end is the only one (--fd).
  private let hasOneFrontEnd: Bool

  /// Opens everything, then gives up the privileges that this took, then starts the workers.  To be
  /// called while the calling thread is the only one: what it gives up, its threads will not have.
  init(
    _ options: Options, _ handed: consuming HandedDescriptors,
    _ signals: consuming SignalDescriptor, _ logger: Logger
  ) throws(StartFailure) {
    let endpoint = try options.endpoint(&handed)
    let grant = XDPGrant(handed)
    let allowedUsers = try options.allowedUserIDs()
    let listener = try starting { try Listener(endpoint) }
    let host = try HostSide(options, grant, logger)
    let (port, owner, events) = (host.port, host.ownerDescriptor, host.eventsDescriptor)
    let control = host.control
    let signal = signals.raw
    let manager = try starting {
      try ServiceNotification()
    } orSay: {
      "cannot reach the service manager at NOTIFY_SOCKET: \($0); unset it to do without"
    }
    let epoll = try starting {
      let epoll = try EpollSet()
      try epoll.add(signal, .readable, tag: Tag.signal)
      if let owner { try epoll.add(owner, .readable, tag: Tag.owner) }
      if let events { try epoll.add(events, .readable, tag: Tag.link) }
      if let raw = listener.descriptor { try epoll.add(raw, .readable, tag: Tag.listener) }
      return epoll
    } orSay: {
      "cannot wait for events: \($0); raise the limit of open files"
    }
    let queues = try starting { try NetDevice.openQueues(of: port) }
    grant?.closeRest()
    var sandbox = Sandbox(options, endpoint)
    try sandbox.dropPrivileges(logger)
    let device = try starting {
      try NetDevice(
        port: port, queues: queues, queuePairs: options.queuePairs, cpus: options.cpus.cpus,
        control: control, polling: options.polling, offloads: options.offloads,
        postcopy: options.postcopy
      ) { logger.warning("\($0)") }
    }
    try starting {
      if let raw = device.controlDescriptor {
        try epoll.add(raw, .readable, tag: Tag.control)
      }
    } orSay: {
      "cannot wait for the control queue: \($0); raise the limit of open files"
    }
    try sandbox.filterSystemCalls()
    self.signals = signals
    self.manager = manager
    self.logger = logger
    self.listener = listener
    self.allowedUsers = allowedUsers
    hasOneFrontEnd = options.descriptor != nil
    hasCarrier = host.hadCarrier
    watch = host.watch
    self.host = host
    self.epoll = epoll
    self.device = device
    for (queue, mode) in device.queueModes.enumerated() {
      logger.info("\(port.name) queue \(queue): \(mode)")
    }
    self.endpoint = endpoint
  }

  /// Serves front-ends until it is told to stop, or the only one that it was given has left.
  /// - Throws: if the host port is gone, or the only front-end may not be served.
  mutating func run() throws(StartFailure) {
    LastResort.watch(logger)
    logger.info("ready: \(endpoint.text)")
    manager.ready(status: endpoint.text)
    do throws(StartFailure) {
      try serveFrontEnds()
    } catch {
      close(status: EXIT_FAILURE)
      throw error
    }
    close(status: EXIT_SUCCESS)
  }

  private mutating func serveFrontEnds() throws(StartFailure) {
    while true {
      if session == nil, try !acceptFrontEnd() { return }
      var tags: [UInt64] = []
      session?.controlThread(isBusy: false)
      epoll.wait(milliseconds: timeout) { tag, _ in tags.append(tag) }
      session?.controlThread(isBusy: true)
      if session?.patience == 0 { serve() }
      for tag in tags {
        switch tag {
        case Tag.signal: if takeSignals() { return }
        case Tag.owner: host.dismissCallers()
        case Tag.link: try takeLinkEvents()
        case Tag.listener: refuseFurtherFrontEnd()
        case Tag.control: device.serveControlQueue()
        case sessionTag: serve()
        default: break
        }
      }
      try lookAtInterface()
      giveSignOfLife()
      if device.mustPollControlQueue { device.serveControlQueue() }
      if device.takeConfigurationNews() { session?.configurationChanged() }
    }
  }

  private var now: UInt64 { UInt64((ContinuousClock.now - start) / .milliseconds(1)) }

  private var timeout: Int32 {
    if device.mustPollControlQueue { return ControlLoop.pollInterval }
    var waits: [UInt64] = []
    if session == nil, let wait = listener.milliseconds(until: now) { waits.append(wait) }
    if let wait = session?.patience { waits.append(wait) }
    if host.isInterface { waits.append(lookAt - min(now, lookAt)) }
    if manager.watchdogInterval != nil { waits.append(signOfLifeAt - min(now, signOfLifeAt)) }
    return waits.min().map { Int32(clamping: $0) } ?? -1
  }

  /// Tells the service manager that all is well, if it is: this loop goes round, and the workers have
  /// read their messages.
  private mutating func giveSignOfLife() {
    guard let interval = manager.watchdogInterval, now >= signOfLifeAt else { return }
    if device.isAlive() { manager.isAlive() } else { session?.workersDoNotAnswer() }
    // Three times in an interval: one that comes late, or is lost, does not count.
    signOfLifeAt = now + max(1, interval / 3)
  }

  // MARK: Front-ends

  /// Starts a session with the next front-end, if there is one.
  /// - Returns: whether another one may ever come.
  private mutating func acceptFrontEnd() throws(StartFailure) -> Bool {
    switch listener.next(now: now) {
    case .connection(let socket): try begin(socket)
    case .nothing: break
    case .failed(let error): reportFailure(error)
    case .exhausted: return false
    }
    return true
  }

  /// A front-end that cannot be accepted stays in the socket's queue, so the loop would spin (and
  /// the log fill) without a pause and a look at what was said last.
  private mutating func reportFailure(_ error: UnixSocketError) {
    if error != lastFailure,
      let line = refusals.admit("no front-end yet: \(error); trying again")
    {
      logger.warning("\(line)")
    }
    lastFailure = error
    if listener.descriptor != nil { usleep(100_000) }
  }

  private mutating func begin(_ socket: consuming UnixSocket) throws(StartFailure) {
    let peer = ControlLoop.describe(socket.peerProcess)
    let logger = logger
    if let allowedUsers, !(socket.peerUser.map(allowedUsers.contains) ?? false) {
      let user = socket.peerUser.map { "user \($0)" } ?? "an unknown user"
      let line = "front-end \(peer) of \(user) is refused: --allow-uid names others only"
      frontEnds.refused += 1
      if hasOneFrontEnd { throw StartFailure(line) }
      if let line = refusals.admit(line) { logger.warning("\(line)") }
      return
    }
    let session = BackEnd(
      device: device, socket: socket, limit: sessionLines,
      log: { level, line in logger.log(level: Logger.Level(level), "\(line)") },
      connected: { [device] summary in
        logger.info("guest connected by \(peer): \(summary)")
        logger.info("offloads: \(device.offloadSummary)")
      })
    sessionTag += 1
    guard let raw = session.descriptor else { return }
    do throws(Errno) {
      try epoll.add(raw, .readable, tag: sessionTag)
    } catch {
      if let line = disconnections.admit("cannot serve \(peer): \(error)") {
        logger.error("\(line)")
      }
      return
    }
    lastFailure = nil
    frontEnds.served += 1
    logger.debug("front-end \(peer) connected")
    manager.status("front-end \(peer) is connected")
    self.session = session
  }

  private mutating func serve() {
    guard let session else { return }
    let peer = ControlLoop.describe(session.peerProcess)
    do throws(VhostUserError) {
      guard try session.handleReadable() == .closed else { return }
      if let line = sessionLines.admit("front-end \(peer) left") { logger.info("\(line)") }
    } catch {
      disconnected(peer, "\(error)")
    }
    self.session = nil
    manager.status(endpoint.text)
  }

  private mutating func disconnected(_ peer: String, _ why: String) {
    frontEnds.disconnected += 1
    if let line = disconnections.admit("front-end \(peer) is disconnected: \(why)") {
      logger.warning("\(line)")
    }
  }

  /// A second front-end at the same time; but the first may be gone, unnoticed until now, or one that
  /// says nothing and only keeps the place.
  private mutating func refuseFurtherFrontEnd() {
    serve()
    guard let session else { return }
    if let silence = session.silence, silence >= ControlLoop.longestSilence {
      disconnected(
        ControlLoop.describe(session.peerProcess),
        "it has made no request for \(silence / 1000) s, and another one waits")
      session.end()
      self.session = nil
      return
    }
    switch listener.next(now: now) {
    case .connection(let second):
      frontEnds.refused += 1
      let line = refusals.admit(
        """
        front-end \(ControlLoop.describe(second.peerProcess)) is refused: \
        \(ControlLoop.describe(session.peerProcess)) is connected; a second guest needs a daemon and \
        an interface of its own
        """)
      if let line { logger.warning("\(line)") }
    case .failed(let error): reportFailure(error)
    case .nothing: break
    case .exhausted: break
    }
  }

  private static func describe(_ process: Int?) -> String {
    guard let process else { return "of unknown process" }
    // In the sandbox the name is out of reach.
    let name = ProcessSettings.name(ofProcess: process)
    return name.map { "\($0), pid \(process)" } ?? "pid \(process)"
  }

  // MARK: The rest

  /// - Returns: whether it is time to end.
  private func takeSignals() -> Bool {
    var isToEnd = false
    while let signal = signals.next() {
      if signal == SIGUSR1 { report() } else { isToEnd = true }
    }
    return isToEnd
  }

  private mutating func takeLinkEvents() throws(StartFailure) {
    for event in host.takeEvents() { try take(event) }
    // An event may be of before the program was attached: what counts is what is there now.
    lookAt = 0
  }

  private mutating func lookAtInterface() throws(StartFailure) {
    guard host.isInterface, now >= lookAt else { return }
    lookAt = now + ControlLoop.lookInterval
    guard let event = host.look() else { return }
    if case .state(let state) = event {
      for line in try watch?.look(at: state, queueEnd: host.queueEnd) ?? [] {
        switch line {
        case .warning(let text): logger.warning("\(text)")
        case .notice(let text): logger.notice("\(text)")
        }
      }
    }
    try take(event)
  }

  private mutating func take(_ event: LinkEvents.Event) throws(StartFailure) {
    let name = host.port.name
    switch event {
    case .removed:
      throw StartFailure("\(name) is gone: it was deleted or moved; create it and start again")
    case .state(let state):
      if let line = host.followInterface() { logger.notice("\(line)") }
      guard state.hasCarrier != hasCarrier else { return }
      hasCarrier = state.hasCarrier
      device.setCarrier(hasCarrier)
      if hasCarrier {
        logger.notice("\(name) has a carrier, packets pass")
      } else if state.isUp {
        logger.warning("\(name) has lost its carrier; no packet passes until it is back")
      } else {
        logger.warning("\(name) is down; no packet passes until `ip link set \(name) up`")
      }
    }
  }

  private func report() {
    for line in device.counterReport.split(separator: "\n") {
      StandardErrorLog.write("counters: \(line)")
    }
    StandardErrorLog.write("counters: \(frontEnds.summary)")
  }

  /// Rings first, then the workers; descriptors, mappings and the socket's file go with their
  /// owners.
  private mutating func close(status: CInt) {
    manager.stopping()
    LastResort.end(logger, status: status)
    session?.end()
    session = nil
    device.stop()
  }
}

extension Logger.Level {
  fileprivate init(_ level: LogLevel) {
    switch level {
    case .debug: self = .debug
    case .info: self = .info
    case .warning: self = .warning
    case .error: self = .error
    }
  }
}
