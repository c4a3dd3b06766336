// The host's side of the device: the port, and what is held beside it while it is open.  For an
// interface the checks of `Preflight` come first, then ownership, and only then is anything
// changed; all changes end with the process.
import AFXDP
import HostPort
import Linux
import Logging
import Packet
import VirtioNet

struct HostSide: ~Copyable {
  let port: any HostPort
  /// Whether packets could pass when it was opened.
  let hadCarrier: Bool
  /// For --control-queue.
  let control: ControlOptions?
  /// To be asked about what becomes of the interface.
  let watch: InterfaceWatch?
  /// The port, if it is an interface.
  private let interface: XDPPort?
  /// To ask what has changed of it: a sandbox lets nobody make another one.
  private let ethtool: EthtoolSocket?
  /// Held for an interface, nil for the stand-in ports.
  private let owner: InterfaceOwner?
  private let events: LinkEvents?
  private let membership: PromiscuousMembership?

  /// For an epoll set: readable while another daemon asks who owns the interface.
  var ownerDescriptor: Int32? {
    switch owner {
    case .some(let owner): owner.raw
    case nil: nil
    }
  }

  /// For an epoll set: readable when something happened to the interface.
  var eventsDescriptor: Int32? {
    switch events {
    case .some(let events): events.raw
    case nil: nil
    }
  }

  /// Hangs up on daemons that were refused the interface, so that the next one is answered too.
  func dismissCallers() {
    switch owner {
    case .some(let owner): owner.dismissCallers()
    case nil: break
    }
  }

  /// Looks at what may have changed of the interface since it was opened.
  /// - Returns: a line for the log, if it has.
  func followInterface() -> String? {
    switch ethtool {
    case .some(let ethtool):
      interface?.follow(segmentsTCP: ethtool.segmentsTCP(port.name))
    case nil: nil
    }
  }

  /// Whether there is an interface that somebody may change.
  var isInterface: Bool { interface != nil }

  /// For `InterfaceWatch`: packets can arrive on the queues below it; nil: that is not known.
  var queueEnd: Int? {
    switch ethtool {
    case .some(let ethtool): ethtool.queueEnd(of: port.name)
    case nil: nil
    }
  }

  /// The state of the interface now, as an event.
  func look() -> LinkEvents.Event? {
    switch events {
    case .some(let events): events.look()
    case nil: nil
    }
  }

  /// What happened to the interface since the last call.
  func takeEvents() -> [LinkEvents.Event] {
    switch events {
    case .some(let events): events.take()
    case nil: []
    }
  }

  /// - Parameter grant: what a process with privileges has opened for this one, if one has.
  init(_ options: Options, _ grant: XDPGrant?, _ logger: Logger) throws(StartFailure) {
    switch options.port {
    case .null:
      self.init(standIn: NullPort(queueCount: options.queuePairs), options, logger)
    case .reflect:
      self.init(standIn: ReflectPort(queueCount: options.queuePairs), options, logger)
    case .generate(let size):
      self.init(
        standIn: try starting { try GeneratePort(size: size, queueCount: options.queuePairs) },
        options, logger)
    case .interface(let name):
      try self.init(interface: name, options, grant, logger)
    }
  }

  private init(standIn port: any HostPort, _ options: Options, _ logger: Logger) {
    self.port = port
    interface = nil
    watch = nil
    ethtool = nil
    hadCarrier = true
    control = ControlOptions(options, nil, logger)
    owner = nil
    events = nil
    membership = nil
  }

  private init(
    interface name: String, _ options: Options, _ grant: XDPGrant?, _ logger: Logger
  ) throws(StartFailure) {
    let interface = try Interface.named(name)
    let preflight = try Preflight(interface, InterfaceRequest(options, grant))
    let owner: InterfaceOwner? = try InterfaceOwner(name, index: interface.index)
    for warning in preflight.warnings { logger.warning("\(warning)") }
    for note in preflight.notes { logger.notice("\(note)") }
    if !interface.isUp {
      try HostSide.bringUp(name)
      logger.info("\(name) was down and is brought up")
    }
    let events: LinkEvents? = try starting {
      try LinkEvents(interfaceIndex: interface.index)
    } orSay: {
      "cannot watch \(name): \($0); free descriptors or memory"
    }
    let ethtool: EthtoolSocket? = try starting {
      try EthtoolSocket()
    } orSay: {
      "cannot ask about \(name): \($0); free descriptors or memory"
    }
    let membership: PromiscuousMembership? =
      options.noPromiscuous ? nil : try HostSide.makePromiscuous(interface, grant)
    var portOptions = XDPPortOptions(
      interface: XDPInterface(name: name, index: UInt32(interface.index)), mtu: interface.mtu,
      queueCount: preflight.queueCount, numaNode: interface.numaNode)
    portOptions.xdpMode = options.xdpMode ?? .auto
    portOptions.copyMode = options.copyMode ?? .auto
    portOptions.addresses = preflight.addresses
    portOptions.busyPolling = options.preferBusyPoll
    portOptions.bulkLane = options.bulkLane ?? .auto
    portOptions.segmentsTCP = interface.segmentsTCP
    portOptions.peerWithXDP = interface.peer.flatMap { $0.runsXDP ? $0.name : nil }
    portOptions.checksums = options.offloads.contains(.hardwareChecksum) ? .auto : .daemon
    portOptions.grant = grant
    let port = try starting { try XDPPort(portOptions) }
    for note in port.notes { logger.notice("\(note)") }
    self.port = port
    self.interface = port
    watch = InterfaceWatch(
      name: name, program: port.programID, mtu: interface.mtu, queues: preflight.queueCount)
    self.ethtool = ethtool
    hadCarrier = interface.hasCarrier
    control = ControlOptions(options, interface, logger)
    self.owner = owner
    self.events = events
    self.membership = membership
  }

  static func bringUp(_ name: String) throws(StartFailure) {
    try starting {
      try Interface.bringUp(name)
    } orSay: {
      "cannot bring \(name) up: \($0); run `ip link set \(name) up` before, or give CAP_NET_ADMIN"
    }
  }

  private static func makePromiscuous(
    _ interface: Interface, _ grant: XDPGrant?
  ) throws(StartFailure) -> PromiscuousMembership {
    if let granted = grant?.takeMembership() { return granted }
    return try starting {
      try PromiscuousMembership(interfaceIndex: interface.index)
    } orSay: {
      "cannot make \(interface.name) promiscuous: \($0); give CAP_NET_RAW, or --no-promiscuous if "
        + "the guest's address is the interface's own"
    }
  }
}

extension InterfaceRequest {
  init(_ options: Options, _ grant: XDPGrant? = nil) {
    self.init(
      queuePairs: options.queuePairs, addresses: options.addresses, dedicated: options.dedicated,
      force: options.force, xdpMode: options.xdpMode ?? .auto,
      multiBuffer: multiBufferRefusal(grant) == nil)
  }
}

extension Interface {
  /// The interface of this name; without one the error names those that there are.
  static func named(_ name: String) throws(StartFailure) -> Interface {
    try starting {
      if let interface = try Interface.read(name) { return interface }
      let others = try Interface.names().joined(separator: ", ")
      throw StartFailure(
        "there is no interface \(name); choose one of \(others), or create it first")
    } orSay: {
      "cannot read interface \(name): \($0)"
    }
  }
}

extension ControlOptions {
  /// Nil without --control-queue.
  init?(_ options: Options, _ interface: Interface?, _ logger: Logger) {
    guard options.controlQueue else { return nil }
    let name = interface?.name ?? "\(options.port)"
    let madeUp = MACAddress(
      madeUpFrom: "\(name) \((interface?.hardwareAddress ?? []).map(String.init))")
    let address = options.addresses.first ?? options.guestAddress ?? madeUp
    let origin =
      options.addresses.isEmpty
      ? options.guestAddress == nil ? "made up; --guest-mac sets another" : "by --guest-mac"
      : "by --mac"
    logger.info("control queue: the guest's address is \(address) (\(origin))")
    self.init(address: address)
    steered = options.addresses
    hasCarrier = interface?.hasCarrier ?? true
    speed = interface?.speed
    isFullDuplex = interface?.isFullDuplex
  }
}
