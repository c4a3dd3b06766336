import Glibc
import Testing

extension SystemTests {
  /// Either side is killed, again and again, under load; the guest boots once.
  @Suite("recovery", .enabled(if: Guest.isFetched, Guest.missing))
  struct Recovery {
    let wire: Wire
    init() throws { wire = try Wire() }

    @Test("a daemon that is killed under load again and again loses no descriptor, soon is back")
    func daemonKilled() throws {
      var daemon = try wire.startDaemon()
      let guest = try Guest(on: wire, ring: 256)
      try guest.waitUntilUp()
      let echo = try Echo(on: wire)
      try guest.load(seconds: 600, bitrate: "8M")

      var gaps: [Double] = []
      let rounds = max(50, SystemTests.faultRounds)
      for round in 1...rounds {
        sleep(Double.random(in: 0.1...0.4))
        daemon.process.send(SIGKILL)
        // How long the kernel takes to end a process with AF_XDP sockets is its own affair.
        _ = try daemon.process.wait()
        let killed = now()
        let last = echo.status.sent
        daemon = try wire.startDaemon()
        try eventually(within: 40, "traffic after kill \(round)", log: daemon.process.log) {
          echo.status.answered > last
        }
        gaps.append(now() - killed)
      }
      gaps.sort()
      print(
        "kill -9 of the daemon, \(rounds) rounds: traffic again after \(gaps[rounds / 2]) s (median), "
          + "\(gaps[rounds - 1]) s (longest)")
      // A successor may wait up to 15 s for the queues that the kernel has not taken back yet.
      #expect(gaps[rounds / 2] < 2)
      #expect(gaps[rounds - 1] < 25)

      try guest.endLoad()
      echo.end()
      // What Linux says of a used element that it does not expect.
      let complaints = try guest.run("dmesg | grep -E \"not a head|out of range|broken\" || true")
      #expect(complaints.isEmpty)
      #expect(try guest.ping(count: 20) == 20)
      #expect(try guest.iperf(toGuest: false) > 1e6)
      #expect(try guest.iperf(toGuest: true) > 1e6)
      // An answer may come twice: what a killed daemon had sent, and not yet reported, is sent
      // again by the next one.
      print("echoes: \(echo.status)")
      #expect(echo.status.repeated <= rounds * 64)
      // What the rings say: every chain that the driver offered went back once.  Last, because
      // QEMU asks the back-end when its monitor is asked, by GET_VRING_BASE: that stops a ring.
      for (ring, name) in [(0, "receive"), (1, "transmit")] {
        let indices = try guest.indices(ofRing: ring)
        let waiting = indices.avail &- indices.used
        #expect(ring == 0 ? waiting <= 256 : waiting == 0, "\(name): \(indices)")
      }
    }

    @Test("packed rings without an in-flight area are not guessed at: a line names the remedy")
    func packedRings() throws {
      let first = try wire.startDaemon()
      let guest = try Guest(on: wire, device: ",packed=on", ring: 256)
      try guest.waitUntilUp()
      #expect(try guest.hasFeature(34))
      #expect(try guest.ping(count: 20) == 20)
      #expect(try guest.iperf(toGuest: true) > 1e6)
      first.process.send(SIGKILL)
      _ = try first.process.wait()

      let daemon = try wire.startDaemon()
      let remedy = "reload the guest\u{27}s driver or reboot the guest"
      try eventually(within: 60, "the remedy is named", log: daemon.process.log) {
        daemon.complaints.contains { $0.contains(remedy) }
      }
      sleep(0.5)
      // One line for a ring.
      #expect(daemon.complaints.count { $0.contains(remedy) } <= 2)
      #expect(daemon.process.isRunning)

      try guest.run(
        """
        modprobe -r virtio_net && modprobe virtio_net || exit 1
        until [ -e /sys/class/net/eth0 ]; do usleep 20000; done
        """)
      try wire.shell("guest_address")
      #expect(try guest.ping(count: 20) == 20)
      #expect(try guest.iperf(toGuest: true) > 1e6)
      #expect(try guest.run("dmesg | grep -E \"not a head|out of range|broken\" || true").isEmpty)
    }

    @Test("a QEMU that is killed under full load, again and again, leaves nothing in the daemon")
    func frontEndKilled() throws {
      let daemon = try wire.startDaemon()
      var before: Footprint?
      for round in 0...SystemTests.faultRounds {
        let guest = try Guest(on: wire, ring: round % 2 == 0 ? 256 : 1024)
        try guest.waitUntilUp()
        try guest.load(seconds: 600, bitrate: "0")
        let received = try daemon.counter("packets", on: "receive 0")
        let sent = try daemon.counter("packets", on: "transmit 0")
        try eventually(within: 60, "packets both ways, round \(round)", log: daemon.process.log) {
          try daemon.counter("packets", on: "receive 0") > received + 1000
            && daemon.counter("packets", on: "transmit 0") > sent + 1000
        }
        sleep(Double.random(in: 0...0.3))
        try guest.wire.shell("guest_kill; kill -9 $(tr -d '\\0' <$LAB_DIR/iperf.pid) || true")
        if let before {
          try daemon.expectFootprint(before, "kill \(round)")
        } else {
          before = try daemon.idleFootprint()
        }
      }
      print("kill -9 of QEMU under full load: \(SystemTests.faultRounds + 1) times")
      #expect(daemon.complaints == [])
      // All frames are there: a driver that comes now gets everything.
      let driver = try wire.startTestpmd(
        "rxonly", device: "queue_size=1024", options: Testpmd.wholeRings())
      try driver.start()
      let arrived = try daemon.counter("packets", on: "receive 0")
      try wire.send(count: 2000, size: 300, perSecond: 2000, to: driver)
      try eventually(within: 30, "all frames arrive", log: daemon.process.log) {
        try daemon.counter("packets", on: "receive 0") >= arrived + 2000
      }
    }
  }
}

/// Echo requests from the far end, numbered, 500 a second, and what came back.
private struct Echo {
  struct Status: CustomStringConvertible {
    var sent = 0
    /// The highest number that came back.
    var answered = 0
    var answers = 0
    /// Answers that had come before.
    var repeated = 0
    var description: String { "\(sent) sent, \(answers) answered, \(repeated) twice" }
  }

  private let file: String
  private let process: ChildProcess

  init(on wire: Wire) throws {
    file = wire.folder + "/echo"
    process = try wire.start(["python3", "-c", Echo.program, file], in: .far, name: "echo")
    let echo = self
    try eventually(within: 60, "the guest answers echo requests", log: process.log) {
      echo.status.answered > 20
    }
  }

  var status: Status {
    let words = contents(of: file).split(separator: " ").compactMap { Int($0) }
    guard words.count == 4 else { return Status() }
    return Status(sent: words[0], answered: words[1], answers: words[2], repeated: words[3])
  }

  func end() { process.end() }

  private static let program = """
    import os, select, socket, struct, sys, time
    def checksum(data):
        total = sum(struct.unpack('!%dH' % (len(data) // 2), data))
        total = (total >> 16) + (total & 0xffff)
        return ~(total + (total >> 16)) & 0xffff
    port = socket.socket(socket.AF_INET, socket.SOCK_RAW, socket.IPPROTO_ICMP)
    port.setblocking(False)
    status = os.open(sys.argv[1], os.O_CREAT | os.O_WRONLY, 0o600)
    sent = answered = answers = repeated = 0
    seen = set()
    due = time.monotonic()
    while True:
        wait = due - time.monotonic()
        if wait <= 0:
            sent += 1
            body = struct.pack('!BBHHHI', 8, 0, 0, 0x7778, sent & 0xffff, sent) + bytes(52)
            body = body[:2] + struct.pack('!H', checksum(body)) + body[4:]
            try:
                port.sendto(body, ('10.77.0.2', 0))
            except OSError:
                pass
            due = max(due + 0.002, time.monotonic() - 0.1)
            continue
        if select.select([port], [], [], wait)[0]:
            packet = port.recv(2048)
            kind, _, _, name, _, number = struct.unpack('!BBHHHI', packet[20:32])
            if kind != 0 or name != 0x7778:
                continue
            answers += 1
            repeated += number in seen
            seen.add(number)
            answered = max(answered, number)
            os.pwrite(status, b'%d %d %d %d ' % (sent, answered, answers, repeated), 0)
    """
}

extension Guest {
  /// UDP of iperf3 both ways, in the background: so much in each, or as much as they can ("0").
  fileprivate func load(seconds: Int, bitrate: String) throws {
    try wire.shell(
      """
      \(Guest.server)
      netns_far iperf3 --server --daemon --pidfile $LAB_DIR/iperf.pid --bind $LAB_FAR_ADDRESS
      listens 5201
      guest_run "iperf3 --client $LAB_FAR_ADDRESS --udp --bitrate \(bitrate) --length 1000 --bidir \
      --time \(seconds) >/dev/null 2>&1 & echo started"
      """)
  }

  fileprivate func endLoad() throws {
    try wire.shell(
      """
      guest_run 'killall iperf3 || true'
      kill $(tr -d '\\0' <$LAB_DIR/iperf.pid) || true
      sleep 1
      """)
  }

  /// Both published indices of a split ring, read from the guest's memory by QEMU.
  fileprivate func indices(ofRing ring: Int) throws -> (avail: UInt16, used: UInt16) {
    let status = try ask(
      "info virtio-queue-status /machine/peripheral/nic/virtio-backend \(ring)")
    func address(_ name: String) throws -> String {
      // A line of its own: there is a `signalled_used:` too.
      let lines = status.split(whereSeparator: \.isNewline)
        .map { $0.drop(while: \.isWhitespace) }
      guard let line = lines.first(where: { $0.hasPrefix(name + ":") }) else {
        throw HarnessError("no \(name) in \(status)")
      }
      return String(line.dropFirst(name.count + 1).drop(while: \.isWhitespace))
    }
    func index(_ ring: String) throws -> UInt16 {
      let words = try ask("xp /1hx \(try address(ring))+2").split(
        whereSeparator: \.isWhitespace)
      guard let last = words.last(where: { $0.hasPrefix("0x") }),
        let value = UInt16(last.dropFirst(2), radix: 16)
      else { throw HarnessError("no index in \(words)") }
      return value
    }
    return (try index("avail"), try index("used"))
  }
}
