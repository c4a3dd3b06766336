// What the daemon may do: to start, as a plain user with single capabilities or with none, and while it
// serves a guest.
import Glibc
import Testing

extension SystemTests {
  @Suite("privileges")
  struct Privileges {
    private static let capabilities = ["NET_ADMIN", "NET_RAW", "BPF", "IPC_LOCK"]
    /// Nobody in particular.
    private static let user = 54321

    let wire: Wire
    init() throws {
      wire = try Wire()
      // The user may get to the folder and make a socket there.
      try wire.shell("chmod 711 $BACKEND_DIR; install -d -o \(Privileges.user) $BACKEND_DIR/own")
    }

    private var socket: String { wire.folder + "/own/sock" }

    private func launch(_ command: [String]) throws -> Daemon {
      Daemon(process: try wire.start(command, in: .near, name: "daemon"))
    }

    /// The daemon on nic0, as a plain user with these capabilities and next to no locked memory.
    private func launch(with capabilities: [String]) throws -> Daemon {
      let set = "-all" + capabilities.map { ",+" + $0.lowercased() }.joined()
      return try launch(
        ["prlimit", "--memlock=1048576:1048576", "setpriv", "--reuid=\(Privileges.user)"]
          + ["--regid=\(Privileges.user)", "--clear-groups", "--inh-caps=\(set)"]
          + ["--ambient-caps=\(set)", "--bounding-set=\(set)"]
          + [Daemon.binary, "--socket-path=\(socket)", "--interface=nic0", "--dedicated"])
    }

    /// No thread has a capability, or is without a filter; none can get more.
    private func expectConfined(_ daemon: Daemon, user: Int) {
      let tasks = "/proc/\(daemon.process.pid)/task"
      let threads = contents(ofFolder: tasks)
      // Control, the worker, and the one that sees to the end.
      #expect(threads.count == 3)
      for thread in threads {
        var values: [String: String] = [:]
        for line in contents(of: "\(tasks)/\(thread)/status").split(separator: "\n") {
          let parts = line.split(separator: "\t", maxSplits: 1)
          if parts.count == 2 { values[String(parts[0])] = String(parts[1]) }
        }
        for set in ["CapInh:", "CapPrm:", "CapEff:", "CapAmb:"] {
          #expect(values[set] == "0000000000000000", "\(set)")
        }
        #expect(values["NoNewPrivs:"] == "1")
        #expect(values["Seccomp:"] == "2")
        #expect(values["Uid:"] == [String](repeating: "\(user)", count: 4).joined(separator: "\t"))
      }
    }

    /// A driver behind it answers pings, of small packets and of several frames.
    private func expectService(_ daemon: Daemon) throws {
      let testpmd = try wire.startTestpmd("icmpecho", socket: socket)
      try testpmd.start()
      #expect(try wire.ping(count: 50) == 50)
      _ = try testpmd.stop()
      #expect(try daemon.losses() == [:])
    }

    @Test("four capabilities are enough to start as a plain user, and none is left then")
    func sufficient() throws {
      let daemon = try launch(with: Privileges.capabilities)
      try daemon.process.waitFor("ready: ")
      expectConfined(daemon, user: Privileges.user)
      try expectService(daemon)
    }

    @Test(
      "without one of the four the daemon does not start, and names it", arguments: capabilities)
    func necessary(missing: String) throws {
      let others = Privileges.capabilities.filter { $0 != missing }
      let daemon = try launch(with: others)
      #expect(try daemon.process.wait() == .exited(1))
      let errors = daemon.complaints.filter { $0.contains(": error: ") }
      #expect(errors.count == 1 && errors[0].contains("give CAP_\(missing)"), "\(errors)")
      // It is not sent to look for one that it has.
      for other in others { #expect(!errors.joined().contains("CAP_\(other)")) }
      try wire.expectRestored()
    }

    @Test("started by grant it serves a guest as a plain user, who never has a capability")
    func granted() throws {
      let daemon = try launch(
        [Daemon.binary, "grant", "--user=\(Privileges.user)", "--group=\(Privileges.user)", "--"]
          + ["--socket-path=\(socket)", "--interface=nic0", "--dedicated"])
      try daemon.process.waitFor("ready: ")
      #expect(contents(of: "/proc/\(daemon.process.pid)/comm") == "vhost-user-xdp\n")
      expectConfined(daemon, user: Privileges.user)
      // The same queues by the same means as with privileges.
      #expect(daemon.process.output.contains("nic0 queue 0: native, copy"))
      #expect(try wire.promiscuity == 1)
      try expectService(daemon)
      daemon.process.send(SIGTERM)
      #expect(try daemon.process.wait() == .exited(0))
      #expect(!exists(socket))
      try wire.expectRestored()
    }

    @Test("what grant opened and the daemon has no use for is closed")
    func spare() throws {
      let options = ["--interface=nic0", "--dedicated"]
      // Without what the test runner leaves open.
      let alone = [
        "bash", "-c",
        "for f in /proc/$$/fd/*; do f=${f##*/}; ((f < 3)) || eval \"exec $f>&-\"; done; exec \"$0\" \"$@\"",
      ]
      // Without segmentation by nic0 there is no bulk lane, and the packet socket for it is spare.
      try wire.shell("netns_near ethtool -K nic0 tso off")
      let plain = try launch(alone + [Daemon.binary, "--socket-path=\(wire.socket)"] + options)
      try plain.process.waitFor("ready: ")
      let usual = try settledCount { plain.descriptors }
      plain.process.end()
      let granted = try launch(
        alone
          + [
            Daemon.binary, "grant", "--user=\(Privileges.user)", "--group=\(Privileges.user)", "--",
          ]
          + ["--socket-path=\(socket)"] + options)
      try granted.process.waitFor("ready: ")
      granted.expectDescriptors(usual)
    }

    @Test("a user who may not make the socket is told so, and nothing is left of the grant")
    func noSocket() throws {
      let daemon = try launch(
        [Daemon.binary, "grant", "--user=\(Privileges.user)", "--group=\(Privileges.user)", "--"]
          + ["--socket-path=\(wire.folder)/sock", "--interface=nic0", "--dedicated"])
      #expect(try daemon.process.wait() == .exited(1))
      #expect(daemon.process.output.contains("this user may not write to the directory"))
      try wire.expectRestored()
    }

    @Test("without Landlock no file can be removed, its own socket's neither, and it says so")
    func noLandlock() throws {
      // landlock_create_ruleset (444) answers ENOSYS: load the number, compare, return.
      let without = """
        import ctypes, os, struct, sys
        lines = [(0x20, 0, 0, 0), (0x15, 0, 1, 444), (6, 0, 0, 0x50026), (6, 0, 0, 0x7fff0000)]
        code = ctypes.create_string_buffer(b''.join(struct.pack('<HBBI', *line) for line in lines))
        program = struct.pack('@HP', len(lines), ctypes.addressof(code))
        prctl = ctypes.CDLL(None).prctl
        assert prctl(38, 1, 0, 0, 0) == 0 and prctl(22, 2, program, 0, 0) == 0
        os.execv(sys.argv[1], sys.argv[1:])
        """
      for _ in 0..<2 {
        let daemon = try launch(
          ["python3", "-c", without, Daemon.binary, "--socket-path=\(socket)", "--interface=null:"])
        try daemon.process.waitFor("ready: ")
        #expect(daemon.process.output.contains("the socket stays behind when the daemon ends"))
        daemon.process.send(SIGTERM)
        #expect(try daemon.process.wait() == .exited(0))
        // The next one replaces it.
        #expect(exists(socket))
      }
    }
  }
}
