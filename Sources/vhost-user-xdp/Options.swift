// The command line.  Its help text is the manual, so each option says what it does, what it
// defaults to and when to use it.  QEMU's rules for back-end programs shaped it: --socket-path or
// --fd, and --print-capabilities, which wins over everything else (vhost-user specification,
// "Backend program conventions").
import AFXDP
import ArgumentParser
import HostPort
import Logging
import Packet
import VirtioNet

struct Options: ParsableArguments {
  static let version = "0.1.0"

  @Option(
    name: .customLong("socket-path"),
    help: ArgumentHelp(
      "Unix socket to listen on for the front-end, or to connect to with --client.",
      discussion: """
        A file that a dead daemon left there is replaced, a live daemon's is not. One of \
        --socket-path and --fd is needed.
        """, valueName: "path"))
  var socketPath: String?

  @Option(
    name: .customLong("fd"),
    help: ArgumentHelp(
      "An open descriptor: a Unix socket that is connected to the front-end already.",
      discussion: "The daemon ends, with status 0, when that connection does.", valueName: "number")
  )
  var descriptor: Int32?

  @Flag(
    name: .customLong("client"),
    help: ArgumentHelp(
      "Connect to --socket-path instead of listening, and again whenever the connection ends.",
      discussion: "For a front-end that is the server (QEMU: server=on on the chardev)."))
  var client = false

  @Option(
    name: .customLong("socket-mode"),
    help: ArgumentHelp(
      "Permissions of the socket file, in octal, as in 0660.",
      discussion: """
        Who may write to it may connect, and hand the daemon a guest. The default is 0660 with \
        --socket-group, else what the umask leaves.
        """, valueName: "mode"))
  var socketMode: FileMode?

  @Option(
    name: .customLong("socket-group"),
    help: ArgumentHelp(
      "Group of the socket file, by name or number: one that QEMU's user is in.",
      valueName: "group"))
  var socketGroup: Account?

  @Option(
    name: .customLong("allow-uid"),
    help: ArgumentHelp(
      "Serve front-ends of this user only, by name or number; may be given several times.",
      discussion: "The kernel tells who is at the other end. By default everybody who may connect.",
      valueName: "user"))
  var allowedUsers: [Account] = []

  @Option(
    name: .customLong("interface"),
    help: ArgumentHelp(
      "The host's side: a network interface, null:, reflect: or generate:SIZE.",
      discussion: """
        null: takes every packet of the guest and drops it; reflect: sends it back to the guest; \
        generate:SIZE drops it, and sends the guest frames of SIZE bytes without end. All three \
        run the full data path, for trying and measuring.
        """, valueName: "name"), transform: PortName.init(option:))
  var port: PortName

  @Option(
    name: .customLong("queues"),
    help: ArgumentHelp(
      "Queue pairs, 1 to \(Options.mostQueuePairs), one for each queue of the interface at best.",
      discussion: """
        QEMU's queues= must not be larger. Queues of the interface beyond them feed them too; \
        pairs beyond the queues share queues to transmit.
        """, valueName: "n"))
  var queuePairs = 1

  @Option(
    name: .customLong("mac"),
    help: ArgumentHelp(
      "The guest's MAC address; may be given several times.",
      discussion: """
        Packets to it, multicast and broadcast go to the guest, everything else stays with the \
        host, which so keeps its interface.
        """, valueName: "address"), transform: MACAddress.init(option:))
  var addresses: [MACAddress] = []

  @Flag(
    name: .customLong("dedicated"),
    help: ArgumentHelp(
      "Every packet goes to the guest; the host loses the interface.",
      discussion: """
        This is the default for an interface that carries neither an address nor a default \
        route. Any other one needs --mac or --dedicated.
        """))
  var dedicated = false

  @Flag(
    name: .customLong("control-queue"),
    help: ArgumentHelp(
      "Offer configuration space and control queue, for front-ends that forward them (crosvm).",
      discussion: """
        The guest's receive modes, address and VLAN filters take effect on its packets then. QEMU \
        keeps these to itself, and warns in its log about the offer.
        """))
  var controlQueue = false

  @Option(
    name: .customLong("guest-mac"),
    help: ArgumentHelp(
      "The address that --control-queue gives the guest; by default it is made up.",
      discussion: "With --mac the guest's address is the first one of these.",
      valueName: "address"), transform: MACAddress.init(option:))
  var guestAddress: MACAddress?

  @Option(
    name: .customLong("xdp-mode"),
    help: ArgumentHelp(
      "Where the XDP program runs: auto, native (in the driver) or skb (in the kernel's stack).",
      discussion: "auto takes native if the driver has it. The default is auto.",
      valueName: "mode"))
  var xdpMode: XDPModeChoice?

  @Option(
    name: .customLong("copy-mode"),
    help: ArgumentHelp(
      "How packets enter and leave the sockets: auto, zero-copy or copy.",
      discussion: "auto takes zero-copy if the driver has it. The default is auto.",
      valueName: "mode"))
  var copyMode: CopyModeChoice?

  @Flag(
    name: .customLong("no-promiscuous"),
    help: ArgumentHelp(
      "Leave the interface's receive filter alone.",
      discussion: """
        By default it takes all unicast addresses while the daemon lives, since the guest's is \
        not its own.
        """))
  var noPromiscuous = false

  @Flag(
    name: .customLong("force"),
    help: "Start also where packets will be lost: each such refusal becomes a warning.")
  var force = false

  @Option(
    name: .customLong("cpus"),
    help: ArgumentHelp(
      "CPUs for the worker threads, such as 2,4-7; one thread each, at most one per queue pair.",
      discussion: "By default there is one thread for each queue pair, on any CPU.",
      valueName: "list"), transform: CPUList.init(option:))
  var cpus = CPUList(cpus: [])

  @Option(
    name: .customLong("poll"),
    help: ArgumentHelp(
      "How workers wait for packets: adaptive, busy or sleep.",
      discussion: """
        adaptive spins while the next packet is likely to come soon, and else sleeps; busy never \
        sleeps while a guest has rings, and takes the whole CPU; sleep never spins. The default is \
        adaptive.
        """, valueName: "mode"))
  var pollMode: PollMode = .adaptive

  @Option(
    name: .customLong("poll-budget"),
    help: ArgumentHelp(
      "Most time that --poll=adaptive spins without work, 1 to 10000 microseconds.",
      discussion: "Pauses that are longer are slept through. The default is 50.",
      valueName: "µs"))
  var pollBudget: Int?

  @Flag(
    name: .customLong("prefer-busy-poll"),
    help: ArgumentHelp(
      "Have the kernel serve the interface when a worker looks, in place of interrupts.",
      discussion: """
        For --poll=busy on a network card. It takes effect with the interface's \
        napi_defer_hard_irqs and gro_flush_timeout set (docs/operations.md).
        """))
  var preferBusyPoll = false

  @Option(
    name: .customLong("disable-offload"),
    help: ArgumentHelp(
      "What is not to be left to others: a list of csum, tso, uso, rxcsum, gro and hwcsum.",
      discussion: """
        csum is the checksum of packets that the guest sends, tso and uso cutting those of TCP and \
        UDP: what is named the guest does itself. Without csum there is neither of the others. \
        rxcsum is the checksum of packets that it receives, gro merging those, and goes with rxcsum. \
        hwcsum is the checksum by the network card: the daemon fills it in then.
        """, valueName: "list"), transform: OffloadList.init(option:))
  var disabledOffloads = OffloadList(offloads: [])

  @Option(
    name: .customLong("bulk-lane"),
    help: ArgumentHelp(
      "How packets leave that are to be cut: auto, packet (uncut, by packet socket) or off.",
      discussion: """
        By packet socket the kernel or the interface cuts them; with off the daemon does. auto takes \
        the packet socket if the interface segments TCP and is not in zero-copy mode. The default is \
        auto.
        """, valueName: "lane"))
  var bulkLane: BulkLaneChoice?

  @Flag(
    name: .customLong("postcopy"),
    help: ArgumentHelp(
      "Take part in postcopy migrations; for front-ends that are trusted with the daemon itself.",
      discussion: """
        The front-end then gets a descriptor (userfaultfd) that reaches all memory of the daemon, not \
        the guest's alone: it can stop its threads, and put pages of its own where there are none yet. \
        A guest that took its QEMU over could go on to take over the daemon. Without it guests migrate \
        all the same, by precopy.
        """))
  var postcopy = false

  @Option(
    name: .customLong("sandbox"),
    help: ArgumentHelp(
      "What a running daemon gives up: strict (all it can do without) or off (nothing).",
      discussion: """
        strict: no capabilities, no files, no new sockets or programs once everything is open. The \
        default is strict.
        """, valueName: "mode"))
  var sandbox = SandboxMode.strict

  @Option(
    name: .customLong("log-level"),
    help: ArgumentHelp(
      "Least important lines on stderr: trace, debug, info, notice, warning, error, critical.",
      valueName: "level"))
  var logLevel: Logger.Level = .info

  @Flag(
    name: .customLong("print-capabilities"),
    help: "Print {\"type\":\"net\"} and exit; everything else is ignored.")
  var printCapabilities = false

  /// Ring numbers are one byte in vhost-user messages, and a pair has two rings.
  static let mostQueuePairs = 128

  func validate() throws {
    switch (socketPath, descriptor) {
    case (nil, nil):
      throw ValidationError("no connection to a front-end: give --socket-path=PATH or --fd=NUMBER")
    case (.some, .some):
      throw ValidationError("--socket-path and --fd exclude each other: give one of them")
    case (let path?, nil):
      guard !path.isEmpty else {
        throw ValidationError("--socket-path is empty: give the path of a Unix socket")
      }
    case (nil, let descriptor?):
      guard descriptor >= 0 else {
        throw ValidationError("--fd=\(descriptor) is no descriptor: give the number of an open one")
      }
      if client {
        throw ValidationError(
          "--client connects to --socket-path and excludes --fd, which is connected: give one of them"
        )
      }
    }
    if client || descriptor != nil {
      let inapplicable = [
        ("--socket-mode", socketMode != nil), ("--socket-group", socketGroup != nil),
      ]
      if let (option, _) = inapplicable.first(where: \.1) {
        throw ValidationError(
          "\(option) is about a socket file that is made here, which \(client ? "--client" : "--fd") "
            + "does without: leave it out")
      }
    }
    guard (1...Options.mostQueuePairs).contains(queuePairs) else {
      throw ValidationError(
        "--queues=\(queuePairs): there are 1 to \(Options.mostQueuePairs) queue pairs")
    }
    if let pollBudget {
      guard pollMode == .adaptive else {
        throw ValidationError(
          "--poll-budget has no meaning with --poll=\(pollMode.rawValue): leave it out, or give "
            + "--poll=adaptive")
      }
      guard Polling.budgets.contains(pollBudget) else {
        throw ValidationError(
          "--poll-budget=\(pollBudget): give \(Polling.budgets.lowerBound) to "
            + "\(Polling.budgets.upperBound) microseconds, or --poll=sleep not to spin at all")
      }
    }
    if dedicated && !addresses.isEmpty {
      throw ValidationError(
        "--mac and --dedicated exclude each other: --mac=ADDRESS leaves the host its packets, "
          + "--dedicated takes them all")
    }
    // Its ring comes behind theirs, and has to have a number too.
    guard !controlQueue || queuePairs < Options.mostQueuePairs else {
      throw ValidationError(
        "--queues=\(queuePairs): with --control-queue there are 1 to "
          + "\(Options.mostQueuePairs - 1) queue pairs")
    }
    if guestAddress != nil {
      guard controlQueue else {
        throw ValidationError(
          "--guest-mac is told by --control-queue only: give both, or set the address in the "
            + "front-end")
      }
      guard addresses.isEmpty else {
        throw ValidationError(
          "--guest-mac and --mac exclude each other: the first --mac is the guest's address")
      }
    }
    if bulkLane == .packet && !offloads.contains(.checksum)
      || bulkLane == .packet && offloads.isDisjoint(with: [.tso, .uso])
    {
      throw ValidationError(
        "--bulk-lane=packet has no meaning with --disable-offload=\(disabledOffloads): the guest cuts "
          + "its packets itself; leave one of them out")
    }
    if case .interface = port {
    } else {
      let inapplicable = [
        ("--mac", !addresses.isEmpty), ("--dedicated", dedicated), ("--xdp-mode", xdpMode != nil),
        ("--copy-mode", copyMode != nil), ("--no-promiscuous", noPromiscuous), ("--force", force),
        ("--prefer-busy-poll", preferBusyPoll), ("--bulk-lane", bulkLane != nil),
      ]
      if let (option, _) = inapplicable.first(where: \.1) {
        throw ValidationError(
          "\(option) has no meaning with --interface=\(port): leave it out, or name a network "
            + "interface")
      }
    }
  }
}

extension Options {
  var offloads: Set<Offload> { Set(Offload.allCases).subtracting(disabledOffloads.offloads) }

  var polling: Polling {
    Polling(mode: pollMode, budget: pollBudget ?? Polling.defaultBudget)
  }
}
