// The daemon under test, and what can be seen of it from outside.
import Glibc
import Testing

struct Daemon {
  let process: ChildProcess
  /// Its process: that of `process`, or a child of it.
  let pid: pid_t

  init(process: ChildProcess, pid: pid_t? = nil) {
    self.process = process
    self.pid = pid ?? process.pid
  }

  /// The release binary; BACKEND names another one.
  static let binary: String = {
    let named = unsafe getenv("BACKEND").map { unsafe String(cString: $0) }
    return named ?? Wire.root + "/.build/release/vhost-user-xdp"
  }()

  /// Its open descriptors.
  var descriptors: Int { entries(in: "/proc/\(pid)/fd") }

  /// Its mappings of guest memory: shared, of a memfd.
  var guestMappings: Int {
    contents(of: "/proc/\(pid)/maps").split(separator: "\n")
      .count { $0.contains("/memfd:") || $0.contains("/dev/shm") }
  }

  /// Expects it to have as many descriptors again, when those of the last front-end are closed.
  func expectDescriptors(_ count: Int, location: SourceLocation = #_sourceLocation) {
    try? eventually(within: 30, "\(count) descriptors") { descriptors == count }
    #expect(descriptors == count, sourceLocation: location)
  }

  /// What it has written of warnings and errors.
  var complaints: [String] {
    process.output.split(separator: "\n").map(String.init)
      .filter { $0.contains(": warning: ") || $0.contains(": error: ") }
  }

  /// How often a front-end has negotiated with it.
  var connections: Int {
    process.output.split(separator: "\n").count { $0.contains("guest connected by") }
  }

  /// The sum of a counter over all rings and queues that print it, by SIGUSR1: "packets",
  /// "dropped_no_guest_buffers". Lines without `line` do not count.
  func counter(_ name: String, on line: String = "") throws -> Int {
    try counters().filter { line.isEmpty || $0.line.contains(line) }
      .filter { $0.name == name }.reduce(0) { $0 + $1.value }
  }

  /// Packets that it knows to be lost, by counter: its own, and the kernel's for its sockets.
  ///
  /// Not those lost while no driver was there. An empty fill ring is in `rx_dropped` too.
  func losses() throws -> [String: Int] {
    let all = try counters().filter {
      $0.name.hasPrefix("dropped_") && $0.name != "dropped_no_guest" && !$0.line.contains("null:")
        || $0.name == "rx_dropped" || $0.name == "rx_ring_full"
    }
    return Dictionary(all.map { ($0.name, $0.value) }, uniquingKeysWith: +).filter { $0.value > 0 }
  }

  /// Those of them that no stream of TCP explains: it sends more than fits the rings when a guest or the
  /// daemon stands still for a moment.
  func faults() throws -> [String: Int] {
    let crowded = ["dropped_no_guest_buffers", "rx_dropped", "rx_ring_full"]
    return try losses().filter { !crowded.contains($0.key) }
  }

  /// All of them, with the lines that they are in.
  func counters() throws -> [(line: String, name: String, value: Int)] {
    let before = process.output.utf8.count
    if process.isRunning { kill(pid, SIGUSR1) }
    var text = ""
    // Each line is a write of its own: the report is there when its last line is.
    try eventually(within: 30, "the counters are printed", log: process.log) {
      text = String(decoding: process.output.utf8.dropFirst(before), as: UTF8.self)
      guard let last = text.firstRange(of: "counters: front-ends: ") else { return false }
      return text[last.upperBound...].contains("\n")
    }
    return text.split(separator: "\n").flatMap { line in
      let words = line.split { $0 == " " || $0 == "," }
      return zip(words, words.dropFirst()).compactMap { name, value in
        Int(value).map { (String(line), String(name), $0) }
      }
    }
  }
}

/// Whether `process` listens on `socket`: the file is there before, and may be a dead one's.
func isListened(_ socket: String, by process: ChildProcess) -> Bool {
  // Flags 00010000: a listening socket.
  contents(of: "/proc/\(process.pid)/net/unix").split(separator: "\n")
    .contains { $0.hasSuffix(" " + socket) && $0.contains(" 00010000 ") }
}

extension Wire {
  /// Starts the daemon on nic0, and waits until it is ready.
  ///
  /// It listens before it opens the interface, and takes no signal before it begins: whoever looks at the
  /// interface or asks for counters has to wait for more than the socket.
  func startDaemon(
    _ options: String..., interface: [String] = ["--interface=nic0", "--dedicated"],
    socket: String? = nil
  ) throws -> Daemon {
    let daemon = try launchDaemon(interface + options, socket: socket)
    try daemon.process.waitFor("ready: ")
    return daemon
  }

  /// Starts the daemon with --socket-path and `options`, and does not wait.
  func launchDaemon(_ options: [String], socket: String? = nil) throws -> Daemon {
    Daemon(
      process: try start(
        [Daemon.binary, "--socket-path=\(socket ?? self.socket)"] + options, in: .near,
        name: "daemon"))
  }

  /// Starts the daemon with options that it must refuse.
  ///
  /// - Returns: its exit status and what it printed.
  func refusal(
    of options: [String], socket: String? = nil
  ) throws -> (status: ExitStatus, output: String) {
    let daemon = try launchDaemon(options, socket: socket)
    defer { daemon.process.end() }
    return (try daemon.process.wait(), daemon.process.output)
  }

  /// `ip -details link` of nic0.
  var linkDetails: String {
    get throws { try shell("ip -n $NETNS_NEAR -details link show nic0") }
  }

  /// How many ask for nic0 to be promiscuous.
  var promiscuity: Int {
    get throws {
      let words = try linkDetails.split { $0 == " " || $0 == "\n" }
      guard let label = words.firstIndex(of: "promiscuity"), let value = Int(words[label + 1])
      else { throw HarnessError("no promiscuity in \(words)") }
      return value
    }
  }

  /// Expects nic0 to be as it was before a daemon; the kernel takes some of it back by and by.
  func expectRestored(location: SourceLocation = #_sourceLocation) throws {
    try? eventually(within: 20, "nic0 is as it was") {
      try programs == "" && promiscuity == 0
    }
    #expect(try programs == "", sourceLocation: location)
    #expect(try promiscuity == 0, sourceLocation: location)
  }

  /// Attaches an XDP program that passes everything to nic0, as another tool would.
  func attachForeignProgram() throws {
    try compilePass()
    try shell("ip -n $NETNS_NEAR link set nic0 xdp object $BACKEND_DIR/pass.o section xdp")
  }

  /// The XDP programs in the near namespace; empty if there are none.
  var programs: String {
    get throws { try shell("backend_programs") }
  }
}
