import Glibc
import Testing

extension SystemTests {
  /// How often each side is killed; the long form is FAULT_ROUNDS=100.
  static let faultRounds =
    unsafe getenv("FAULT_ROUNDS").flatMap { unsafe Int(String(cString: $0)) } ?? 10

  /// Either side dies, stops, comes and goes, all under load.
  @Suite("faults of the processes", .enabled(if: exists(Churn.binary), "build bench-driver"))
  struct ProcessFaults {
    let wire: Wire
    init() throws { wire = try Wire() }

    @Test("kill -9 of the daemon under full load: its successor goes on with the rings")
    func daemonKilled() throws {
      let driver = try Testpmd(
        on: wire, "flowgen", device: "server=1,queue_size=1024", options: Testpmd.wholeRings())
      try driver.process.waitFor("waiting for client connection")
      var daemon = try wire.startDaemon("--client")
      try driver.waitUntilReady()
      try driver.start()
      let load = try EchoLoad(on: wire, perSecond: 5000)
      var gaps: [Double] = []
      for round in 1...SystemTests.faultRounds {
        try awaitFlow(daemon, round)
        sleep(Double.random(in: 0.05...0.2))
        daemon.process.send(SIGKILL)
        let killed = now()
        #expect(try daemon.process.wait() == .killed(bySignal: SIGKILL))
        let before = try wire.counter(.far, "rx_packets")
        daemon = try wire.startDaemon("--client")
        try eventually(within: 40, "traffic after kill \(round)", log: daemon.process.log) {
          try wire.counter(.far, "rx_packets") > before + 100
        }
        gaps.append(now() - killed)
      }
      report("kill -9 of the daemon", gaps)
      try awaitFlow(daemon, 0)
      load.end()
      _ = try driver.stop()
      try driver.command("set fwd io")
      try driver.start()
      // The load may have been too much for a busy machine; an exchange never is.
      let dropped = try daemon.losses()["rx_dropped"]
      try wire.expectExchange()
      try eventually(within: 30, "no frame is in use", log: daemon.process.log) {
        try daemon.counter("frames_in_use") == 0
      }
      #expect(try daemon.losses()["rx_dropped"] == dropped)
    }

    /// Packets go both ways.
    private func awaitFlow(_ daemon: Daemon, _ round: Int) throws {
      let received = try daemon.counter("packets", on: "receive 0")
      let sent = try daemon.counter("packets", on: "transmit 0")
      try eventually(within: 60, "packets both ways, round \(round)", log: daemon.process.log) {
        try daemon.counter("packets", on: "receive 0") > received
          && daemon.counter("packets", on: "transmit 0") > sent
      }
    }

    @Test("kill -9 of the front-end under full load: nothing of it stays")
    func frontEndKilled() throws {
      let daemon = try wire.startDaemon()
      var before: Footprint?
      var gaps: [Double] = []
      for round in 0...SystemTests.faultRounds {
        let begin = now()
        let arrived = try wire.counter(.far, "rx_packets")
        let flood = try wire.startFlood(round % 2 == 0 ? "--packed" : "--queue-size=1024")
        try eventually(within: 60, "traffic in round \(round)", log: daemon.process.log) {
          try wire.counter(.far, "rx_packets") > arrived + 1000
        }
        gaps.append(now() - begin)
        sleep(Double.random(in: 0...0.1))
        flood.send(SIGKILL)
        #expect(try flood.wait() == .killed(bySignal: SIGKILL))
        if let before {
          try daemon.expectFootprint(before, "kill \(round)")
        } else {
          before = try daemon.idleFootprint()
        }
      }
      report("kill -9 of the front-end", gaps)
      #expect(daemon.complaints == [])
    }

    @Test("1,000 connections with rings and traffic: every packet of them arrives once")
    func connections() throws {
      let daemon = try wire.startDaemon()
      _ = try wire.churn("--connections=20")
      let before = try daemon.idleFootprint()
      let arrivals = try wire.arrivals()
      let churn = try wire.churn("--connections=1000")
      print("churn: \(churn)")
      #expect(churn.connections == 1000)
      let packets = try arrivals.count(of: churn.sent)
      // Of frames that were under way at a hang-up nobody knows.
      let possible = churn.sent...churn.sent + churn.unknown
      #expect(possible.contains(packets), "\(packets), \(churn)")
      try daemon.expectFootprint(before, "1,000 connections")
      #expect(daemon.complaints == [])
    }

    @Test(
      "10,000 starts and stops of a ring under traffic both ways: no packet is lost",
      arguments: [[], ["--packed"]])
    func restarts(ring: [String]) throws {
      let daemon = try wire.startDaemon()
      let warmUp = try wire.startChurn(["--restarts=20"] + ring)
      _ = try wire.result(of: warmUp)
      let before = try daemon.idleFootprint()
      let arrivals = try wire.arrivals()
      let disabled = try daemon.counter("dropped_ring_disabled")
      let sender = try wire.startExchange(3000, perSecond: 2000, patience: 0.7, atOnce: false)
      // Longer than the far end sends.
      let process = try wire.startChurn(["--restarts=10000", "--traffic-us=300"] + ring)
      try eventually(within: 60, "it is connected") { daemon.connections >= 2 }
      try sender.type("now")
      #expect(try sender.wait() == .exited(0))
      let churn = try wire.result(of: process)
      print("churn: \(churn)")
      #expect(churn.restarts == 10000 && churn.unknown == 0)
      // What is in a ring that is disabled is dropped, and counted.
      let dropped = try daemon.counter("dropped_ring_disabled") - disabled
      #expect(try arrivals.count(of: churn.sent - dropped) == churn.sent - dropped)
      // A ring that stops for longer than 100 ms, on a busy machine, is one that nobody listens to; what
      // comes when the restarts are over waits for another guest, or finds none.
      var lost = 0
      var counters = ""
      try? eventually(within: 20, "all are accounted for") {
        // Of one report: what waits goes on to another number.
        let all = try daemon.counters().filter {
          $0.value > 0 && $0.name != "dropped_ring_disabled"
            && ($0.name.hasPrefix("dropped_") || Self.lost.contains($0.name))
        }
        lost = all.reduce(0) { $0 + $1.value }
        counters = "\(all)"
        return churn.received + lost == 3000
      }
      #expect(churn.received + lost == 3000, "\(churn.received) received, \(counters)")
      #expect(churn.received > 1000)
      print("10,000 restarts: \(churn.received) of 3000 received, \(lost) counted as lost")
      try daemon.expectFootprint(before, "10,000 restarts")
      #expect(daemon.complaints == [])
    }

    /// The kernel's counters of what a guest does not get, and what still waits.
    private static let lost = ["rx_dropped", "rx_ring_full", "rx_waiting"]

    @Test("a daemon that stands still and goes on: what did not fit is counted, all else passes")
    func stopped() throws {
      let daemon = try wire.startDaemon()
      let driver = try wire.startEcho()
      try wire.expectExchange()
      let before = try daemon.settledFootprint()
      let load = try EchoLoad(on: wire, perSecond: 500)
      for round in 1...3 {
        try load.awaitEcho("round \(round)")
        daemon.process.send(SIGSTOP)
        try wire.send(count: 6000, size: 200, perSecond: 20000)
        daemon.process.send(SIGCONT)
        let seconds = try load.awaitEcho("SIGCONT \(round)", log: daemon.process.log)
        print("SIGSTOP and SIGCONT: traffic again after \(seconds) s")
      }
      load.end()
      // Of 6,000 frames each time 2,048 fit the ring.
      let losses = try daemon.losses()
      #expect(losses.values.reduce(0, +) > 3 * 3500, "\(losses)")
      try wire.expectExchange()
      try daemon.expectFootprint(before, "SIGSTOP and SIGCONT")
      #expect(driver.process.isRunning)
    }

    @Test("a running daemon never reads the wall clock, nor does it matter where the others began")
    func clocks() throws {
      try wire.shell(
        """
        gcc -shared -fPIC -O1 -o $LAB_DIR/clock.so -x c - <<'END'
        \(Self.wallClock)
        END
        """)
      // The other clocks are ten years ahead.
      let daemon = Daemon(
        process: try wire.start(
          [
            "unshare", "--time", "--monotonic", "315360000", "--boottime", "315360000",
            "env", "LD_PRELOAD=\(wire.folder)/clock.so", Daemon.binary,
            "--socket-path=\(wire.socket)", "--interface=nic0", "--dedicated",
          ], in: .near, name: "daemon"))
      // Until then libbpf reads it, to number what it asks.
      try daemon.process.waitFor("ready")
      let length = daemon.process.output.utf8.count
      for _ in 0..<2 {
        let driver = try wire.startEcho()
        try wire.expectExchange()
        for (state, line) in [("down", "has lost its carrier"), ("up", "has a carrier")] {
          let before = daemon.process.output.utf8.count
          try wire.setLink(.far, state)
          try daemon.process.waitFor(line, after: before)
        }
        try driver.kill()
      }
      let test = try wire.attempt("LD_PRELOAD=$LAB_DIR/clock.so date")
      #expect(test.output.contains("the wall clock was read"), "the test notices")
      let said = String(decoding: daemon.process.output.utf8.dropFirst(length), as: UTF8.self)
      #expect(!said.contains("the wall clock was read"))
      #expect(daemon.complaints.allSatisfy { $0.contains("carrier") })
      daemon.process.end()
    }

    // Each look at the wall clock is told, and gives another year.
    private static let wallClock = """
      #include <sys/syscall.h>
      #include <sys/time.h>
      #include <time.h>
      #include <unistd.h>
      static long jump(void) {
        static long years;
        static const char line[] = "the wall clock was read\\n";
        (void)!write(2, line, sizeof line - 1);
        years = years > 0 ? -5 : 5;
        return years * 31536000;
      }
      int clock_gettime(clockid_t clock, struct timespec *time) {
        long result = syscall(SYS_clock_gettime, clock, time);
        if (clock == CLOCK_REALTIME || clock == CLOCK_REALTIME_COARSE || clock == CLOCK_TAI)
          time->tv_sec += jump();
        return result;
      }
      int gettimeofday(struct timeval *restrict time, void *restrict zone) {
        struct timespec now;
        clock_gettime(CLOCK_REALTIME, &now);
        time->tv_sec = now.tv_sec;
        time->tv_usec = now.tv_nsec / 1000;
        return zone != 0;
      }
      time_t time(time_t *result) {
        struct timespec now;
        clock_gettime(CLOCK_REALTIME, &now);
        if (result) *result = now.tv_sec;
        return now.tv_sec;
      }
      """

    private func report(_ fault: String, _ gaps: [Double]) {
      let sorted = gaps.sorted()
      print(
        "\(fault), \(gaps.count) rounds: traffic again after \(sorted[sorted.count / 2]) s "
          + "(median), \(sorted[sorted.count - 1]) s (longest)")
    }
  }
}
