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
        "--total-num-mbufs=8192",
      ] + options, in: .far, name: "testpmd")
  }

  /// Waits until it takes commands: the device is negotiated and its rings are set up.
  func waitUntilReady() throws {
    try process.waitFor("testpmd> ", within: 15, isPrompt: true)
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

  /// Forwards for so long.
  func run(seconds: Double) throws -> Statistics {
    try start()
    sleep(seconds)
    return try stop()
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
  /// A front-end that is ready to forward.
  func startTestpmd(
    _ mode: String, device: String = "", options: [String] = [], socket: String? = nil
  ) throws -> Testpmd {
    let testpmd = try Testpmd(on: self, mode, device: device, options: options, socket: socket)
    try testpmd.waitUntilReady()
    return testpmd
  }

  /// The counter once it stands still: everything under way has arrived.
  func settled(_ end: End, _ name: String) throws -> Int {
    var last = try counter(end, name)
    try eventually(within: 10, "\(name) of \(end.interface) stands still") {
      sleep(0.15)
      let current = try counter(end, name)
      defer { last = current }
      return current == last
    }
    return last
  }
}
