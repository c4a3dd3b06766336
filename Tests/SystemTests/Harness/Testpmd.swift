// DPDK's testpmd with a virtio-user device: a front-end and a driver that are not ours.
//
// Its memory is one memfd (--no-huge), so nothing of the machine has to be prepared.
import Glibc

final class Testpmd {
  let process: ChildProcess

  /// What its forwarding counted.
  struct Statistics: Equatable {
    var received: Int
    var transmitted: Int
  }

  /// - Parameters:
  ///   - mode: txonly, rxonly, icmpecho (answers ARP and ping) …
  ///   - device: more arguments of net_virtio_user, such as "mrg_rxbuf=0,packed_vq=0".
  ///   - options: more options of testpmd itself.
  init(
    on wire: Wire, _ mode: String, device: String = "", options: [String] = [],
    socket: String? = nil
  ) throws {
    let cpus = max(1, sysconf(Int32(_SC_NPROCESSORS_ONLN)))
    let vdev =
      ["net_virtio_user0", "path=\(socket ?? wire.socket)"] + (device.isEmpty ? [] : [device])
    process = try wire.start(
      // Two lcores are the least: one forwards, one reads commands; the scheduler places both.
      [
        "stdbuf", "-oL", "dpdk-testpmd", "--lcores=0@(0-\(cpus - 1)),1@(0-\(cpus - 1))",
        "--no-huge", "-m", "256", "--no-pci", "--file-prefix=\(wire.name)-\(wire.processes.count)",
        // Which of its drivers it has chosen; and that it may choose those with AVX-512.
        "--log-level=pmd.net.virtio.init:info", "--force-max-simd-bitwidth=512",
        "--vdev=" + vdev.joined(separator: ","), "--",
        "-i", "--forward-mode=\(mode)",
        // Enough to fill two pairs of rings of 1024 entries with packets of three buffers: it takes none
        // back before it has another packet to send.
        "--total-num-mbufs=16384",
      ] + options, in: .far, name: "testpmd")
  }

  /// Options for rings of 1024 entries: without them DPDK uses 512 of a ring, however many it has.
  static func wholeRings(queues: Int = 1) -> [String] {
    ["--rxq=\(queues)", "--txq=\(queues)", "--rxd=1024", "--txd=1024"]
  }

  /// Waits until it takes commands: the device is negotiated and its rings are set up.
  func waitUntilReady() throws {
    try process.waitFor("testpmd> ", within: 60, isPrompt: true)
  }

  /// Gives it a command, and waits until it is done.
  func command(_ words: String) throws {
    let before = process.output.utf8.count
    try process.type(words)
    try process.waitFor("testpmd> ", after: before, isPrompt: true)
  }

  /// Begins to forward.
  /// - Parameter how: `tx_first` to send a burst by itself before.
  func start(_ how: String = "") throws {
    let before = process.output.utf8.count
    try process.type("start \(how)")
    try process.waitFor("packets/burst", after: before)
  }

  /// Stops forwarding; what is in the rings stays there and is still taken by the back-end.
  func stop() throws -> Statistics {
    let before = process.output.utf8.count
    try process.type("stop")
    let text = try process.waitFor("\nDone.", after: before)
    guard let total = text.firstRange(of: "Accumulated"),
      let received = number(after: "RX-packets:", in: text[total.upperBound...]),
      let transmitted = number(after: "TX-packets:", in: text[total.upperBound...])
    else { throw HarnessError("testpmd printed no statistics: \(text)") }
    return Statistics(received: received, transmitted: transmitted)
  }

  /// Forwards for so long, and on until `isEnough` of what it has moved: it may stand still all the time.
  func run(
    seconds: Double,
    until isEnough: (Statistics) throws -> Bool = { $0.received + $0.transmitted > 2000 }
  ) throws -> Statistics {
    let before = try counts()
    try start()
    try forward(seconds: seconds, since: before, until: isEnough)
    return try stop()
  }

  /// As `run`, when it has been started.
  func forward(
    seconds: Double, since before: Statistics, until isEnough: (Statistics) throws -> Bool
  ) throws {
    sleep(seconds)
    try eventually(within: 30, "testpmd has moved enough", log: process.log) {
      let counts = try counts()
      return try isEnough(
        Statistics(
          received: counts.received - before.received,
          transmitted: counts.transmitted - before.transmitted))
    }
  }

  /// What its port has counted so far, while it forwards too.
  func counts() throws -> Statistics {
    let before = process.output.utf8.count
    try process.type("show port stats 0")
    let text = try process.waitFor("TX-packets:", after: before)
    guard let received = number(after: "RX-packets:", in: text[...]),
      let transmitted = number(after: "TX-packets:", in: text[...])
    else { throw HarnessError("testpmd printed no statistics: \(text)") }
    return Statistics(received: received, transmitted: transmitted)
  }

  /// A crash.
  func kill() throws {
    process.send(SIGKILL)
    _ = try process.wait()
  }

  private func number(after label: String, in text: Substring) -> Int? {
    guard let found = text.firstRange(of: label) else { return nil }
    return Int(text[found.upperBound...].drop(while: \.isWhitespace).prefix(while: \.isNumber))
  }
}

extension Wire {
  /// Sends frames in portions, each when `driver` has taken the one before.  Its rings have to hold one:
  /// then nothing depends on when it runs, or the daemon.
  func send(
    count: Int, size: Int, perSecond rate: Int, to driver: Testpmd, portion: Int = 800
  ) throws {
    let program = Self.portionedSender(size: size, perSecond: rate)
    let sender = try start(["python3", "-c", program], in: .far, name: "sender")
    defer { sender.end() }
    for sent in stride(from: 0, to: count, by: portion) {
      let next = min(portion, count - sent)
      try deliver(next, to: driver) {
        let before = sender.output.utf8.count
        try sender.type("\(next)")
        try sender.waitFor("sent", after: before)
      }
    }
  }

  /// As `sendFlows`, in such portions.
  func sendFlows(_ flows: Int, perFlow: Int, to driver: Testpmd) throws {
    let most = max(1, 640 / flows)
    for sent in stride(from: 0, to: perFlow, by: most) {
      let next = min(most, perFlow - sent)
      try deliver(flows * next, to: driver) { try sendFlows(flows, perFlow: next) }
    }
  }

  private func deliver(_ count: Int, to driver: Testpmd, _ send: () throws -> Void) throws {
    let before = try driver.counts().received
    try send()
    var taken = 0
    do {
      try eventually(within: 30, "all frames reach the driver") {
        taken = try driver.counts().received - before
        return taken >= count
      }
    } catch {
      // Whoever lost one has counted it.
      let daemon = processes.last { $0.name == "daemon" && $0.isRunning }.map {
        Daemon(process: $0)
      }
      let counters = try daemon?.counters().filter { $0.value > 0 }.map { "\($0.line)" } ?? []
      let interface = try shell("netns_near ethtool -S nic0; netns_near ip -s link show nic0")
      throw HarnessError(
        "\(taken) of \(count) frames reached the driver\n\(Set(counters).sorted().joined(separator: "\n"))\n"
          + "\(interface)\n\(tail(of: driver.process.log, lines: 30))")
    }
  }

  /// A front-end that is ready to forward.
  func startTestpmd(
    _ mode: String, device: String = "", options: [String] = [], socket: String? = nil
  ) throws -> Testpmd {
    let testpmd = try Testpmd(on: self, mode, device: device, options: options, socket: socket)
    try testpmd.waitUntilReady()
    return testpmd
  }

  /// The counter once it stands still: everything under way has arrived.
  ///
  /// - Parameter expected: what it should come to.  What is under way may be held up for longer than a
  ///   counter that stands still can tell.
  func settled(_ end: End, _ name: String, atLeast expected: Int = 0) throws -> Int {
    var last = try counter(end, name)
    let patience = now() + 20
    try eventually(within: 60, "\(name) of \(end.interface) stands still") {
      sleep(0.15)
      let current = try counter(end, name)
      defer { last = current }
      return current == last && (current >= expected || now() > patience)
    }
    return last
  }
}
