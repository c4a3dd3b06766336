import Glibc
import Testing

extension SystemTests {
  /// The host runs out of something that the daemon needs.
  @Suite("faults of the host's resources", .enabled(if: exists(Churn.binary), "build bench-driver"))
  struct ResourceFaults {
    let wire: Wire
    init() throws { wire = try Wire() }

    @Test("no huge pages: normal ones are used, and said")
    func noHugePages() throws {
      // The kernel may give pages of a daemon before back only when they are held.
      for attempt in 1... {
        let holder = try wire.start(
          ["python3", "-c", Self.hugePageHolder], in: .near, name: "holder")
        try holder.waitFor("held")
        let daemon = try wire.startDaemon()
        let isWithout = daemon.process.output.contains("frame memory in normal pages")
        if isWithout || attempt == 5 {
          #expect(isWithout, "\(daemon.process.output)")
          break
        }
        daemon.process.end()
      }
      _ = try wire.startEcho()
      try wire.expectExchange()
    }

    // Others on the machine may have some.
    private static let hugePageHolder = """
      import mmap, re, time
      held = []
      for _ in range(int(re.search(r'HugePages_Free: +(\\d+)', open('/proc/meminfo').read())[1])):
          try:
              held.append(mmap.mmap(-1, 2 << 20, mmap.MAP_PRIVATE | mmap.MAP_ANONYMOUS | 0x40000))
              held[-1][0] = 1
          except OSError:
              break
      print('held', len(held), flush=True)
      time.sleep(60)
      """

    @Test("RLIMIT_MEMLOCK too small, no CAP_IPC_LOCK: one line with the remedy, which works")
    func lockedMemory() throws {
      let small = try limited("--memlock=1048576:1048576", without: "-ipc_lock,-sys_resource")
      #expect(try small.process.wait() == .exited(1))
      let errors = small.errors
      #expect(errors.count == 1)
      #expect(errors.first?.contains("more than RLIMIT_MEMLOCK allows (1024 KiB)") == true)
      #expect(errors.first?.contains("CAP_IPC_LOCK") == true, "\(small.process.output)")

      let able = try limited("--memlock=1048576:1048576", without: "-sys_resource")
      try able.process.waitFor("ready")
      _ = try wire.startEcho()
      try wire.expectExchange()
    }

    @Test("any limit of descriptors at the start: it serves, or refuses with the remedy")
    func descriptorsAtStart() throws {
      var enough = 0
      var limit = 9
      while enough == 0 && limit < 128 {
        defer { limit += 3 }
        let daemon = try limited("--nofile=\(limit):\(limit)", without: "-sys_resource")
        defer { daemon.process.end() }
        // It may have to wait for the queue of the one before.
        try eventually(within: 60, "limit \(limit): it is ready or has ended") {
          daemon.process.output.contains("ready") || !daemon.process.isRunning
        }
        if daemon.process.poll() != nil {
          #expect(daemon.process.poll() == .exited(1), "limit \(limit): \(daemon.process.output)")
          #expect(daemon.errors.count == 1, "limit \(limit): \(daemon.process.output)")
          #expect(daemon.errors.first?.contains("limit of open files") == true, "\(daemon.errors)")
        } else {
          enough = limit
          #expect(try wire.churn("--connections=10").sent > 0, "limit \(limit)")
        }
      }
      #expect(enough > 0, "some limit is enough")
    }

    @Test("descriptors are used up while it runs: a front-end waits, or is hung up on")
    func descriptorsWhileRunning() throws {
      let daemon = try wire.startDaemon()
      _ = try wire.churn("--connections=20")
      let before = try daemon.idleFootprint()
      let free = (0..<1024).filter { !exists("/proc/\(daemon.pid)/fd/\($0)") }
      // From none to what a session takes.
      for spare in 0..<12 {
        let length = daemon.process.output.utf8.count
        try wire.shell("prlimit --pid \(daemon.pid) --nofile=\(free[spare]):8192")
        let front = try wire.start(
          [
            Churn.binary, "churn", "--socket=\(wire.socket)", "--connections=2",
            "--connect-timeout=30",
          ], in: .far, name: "churn")
        if spare == 0 {
          try daemon.process.waitFor("raise the limit of open files", after: length)
        } else {
          sleep(0.3)
        }
        try wire.shell("prlimit --pid \(daemon.pid) --nofile=8192:8192")
        let end = try front.wait()
        if spare == 0 {
          #expect(end == .exited(0), "it was accepted late: \(front.output)")
        } else if end != .exited(0) {
          try eventually(within: 20, "\(spare) to spare: it is told", log: daemon.process.log) {
            let said = String(
              decoding: daemon.process.output.utf8.dropFirst(length), as: UTF8.self)
            return said.contains("ulimit -n") || said.contains("EMFILE")
          }
        }
        #expect(try wire.churn("--connections=2").sent > 0, "\(spare) to spare")
        try daemon.expectFootprint(before, "a limit with \(spare) to spare")
      }
    }

    /// Where log lines go to, as the end of a shell's script.
    enum Sink: String, CaseIterable {
      case full = """
        mount -t tmpfs -o size=64k tmpfs "$0"; head -c 1M /dev/zero >"$0/fill" 2>/dev/null
        exec "$@" 2>>"$0/log"
        """
      case closed = #"exec "$@" 2>&-"#
      /// A pipe that nobody reads.
      case unread = #"exec "$@" 2> >(exec sleep 60)"#
    }

    @Test(
      "nowhere to write logs to: packets and front-ends do not notice", arguments: Sink.allCases)
    func noLog(sink: Sink) throws {
      let folder = wire.folder + "/full"
      try wire.shell("mkdir -p \(folder)")
      let daemon = Daemon(
        process: try wire.start(
          [
            "unshare", "--mount", "bash", "-c", sink.rawValue, folder, Daemon.binary,
            "--socket-path=\(wire.socket)", "--interface=nic0", "--dedicated",
          ], in: .near, name: "daemon"))
      try eventually(within: 60, "the daemon listens") {
        isListened(wire.socket, by: daemon.process)
      }
      _ = try wire.churn("--connections=30")
      // The last of them goes a little later.
      let (descriptors, begin) = (try settledCount { daemon.descriptors }, now())
      for _ in 0..<50 {
        daemon.process.send(SIGUSR1)
        sleep(0.005)
      }
      let churn = try wire.churn("--connections=200")
      #expect(churn.connections == 200 && now() - begin < 120)
      try eventually(within: 30, "descriptors are closed") { daemon.descriptors == descriptors }
      let driver = try wire.startEcho()
      try wire.expectExchange()
      if sink == .full {
        let inside = "nsenter --mount --target \(daemon.pid) bash -c"
        try wire.shell("\(inside) ': >\(folder)/fill'")
        daemon.process.send(SIGUSR1)
        try eventually(within: 30, "with room again lines are written") {
          try wire.shell("\(inside) 'cat \(folder)/log'").contains("counters: receive 0")
        }
      }
      #expect(driver.process.isRunning)
      daemon.process.send(SIGTERM)
      #expect(try daemon.process.wait() == .exited(0))
    }

    @Test("a link slower than the guest: it waits, and what is lost is counted")
    func slowLink() throws {
      // The queue of a device below the daemon's own holds what it is given.
      try wire.shell(
        """
        ip -n $NETNS_NEAR link add link nic0 name slow0 type macvlan mode passthru
        ip -n $NETNS_NEAR link set slow0 up
        """)
      let daemon = try wire.startDaemon(interface: ["--interface=slow0", "--dedicated"])
      _ = try wire.churn("--connections=2", "--traffic-us=1000")
      let before = try daemon.idleFootprint()
      for (rate, limit) in [("20mbit", "8mb"), ("20mbit", "40kb"), ("", "")] {
        let slow = !rate.isEmpty
        if slow {
          try wire.shell(
            "tc -n $NETNS_NEAR qdisc add dev nic0 root tbf rate \(rate) burst 10kb limit \(limit)")
        }
        let arrived = try wire.settled(.far, "rx_packets")
        let refused = try daemon.counter("device_refused")
        let disabled = try daemon.counter("dropped_ring_disabled")
        let churn = try wire.churn("--restarts=20", "--traffic-us=50000")
        let lost = try settledCount { try daemon.counter("device_refused") } - refused
        let dropped = try daemon.counter("dropped_ring_disabled") - disabled
        let packets = try wire.settled(.far, "rx_packets") - arrived
        print("slow link \(rate) \(limit): \(churn), \(lost) refused, \(packets) arrived")
        #expect(packets + lost + dropped == churn.sent)
        #expect(limit == "40kb" ? lost > 0 : lost == 0)
        if slow { try wire.shell("tc -n $NETNS_NEAR qdisc delete dev nic0 root") }
        try daemon.expectFootprint(before, "\(rate) \(limit)")
      }
    }

    /// Starts the daemon with a limit that it cannot raise.
    private func limited(_ limit: String, without capabilities: String) throws -> Daemon {
      Daemon(
        process: try wire.start(
          [
            "prlimit", limit, "setpriv", "--bounding-set=\(capabilities)",
            "--inh-caps=\(capabilities)", Daemon.binary, "--socket-path=\(wire.socket)",
            "--interface=nic0", "--dedicated",
          ], in: .near, name: "daemon"))
    }
  }
}

extension Daemon {
  /// The lines with which it ended.
  fileprivate var errors: [Substring] {
    process.output.split(separator: "\n").filter { $0.contains(": error: ") }
  }
}
