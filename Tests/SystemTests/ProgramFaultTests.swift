import Glibc
import Testing

extension SystemTests {
  /// What other tools do to the interface of a running daemon: its XDP program, its queues.
  @Suite("faults by other tools")
  struct ProgramFaults {
    @Test("nobody replaces or removes the XDP program by its name, and traffic goes on")
    func notReplaced() throws {
      let wire = try Wire()
      let daemon = try wire.startDaemon()
      let driver = try wire.startEcho()
      try wire.expectExchange()
      let before = try daemon.settledFootprint()
      let program = try wire.programs
      try wire.compilePass()
      for (command, refusal) in [
        ("xdp object $BACKEND_DIR/pass.o section xdp", "Can't replace active BPF XDP link"),
        ("xdpgeneric object $BACKEND_DIR/pass.o section xdp", "can't be active at the same time"),
        ("xdp off", "Can't replace active BPF XDP link"),
      ] {
        let result = try wire.attempt("ip -n $NETNS_NEAR link set nic0 \(command)")
        #expect(result.status != .exited(0) && result.output.contains(refusal), "\(result.output)")
      }
      #expect(try wire.programs == program)
      try wire.expectExchange()
      try daemon.expectFootprint(before, "attempts to replace the program")
      #expect(driver.process.isRunning)
    }

    @Test("a program detached by force ends the daemon with a line; the next takes over")
    func detached() throws {
      let wire = try Wire()
      let supervisor = try Supervisor(on: wire, ["--interface=nic0", "--dedicated"])
      try supervisor.process.waitFor("ready")
      var driver = try wire.startEcho()
      try wire.expectExchange()
      let begin = now()
      var length = supervisor.process.output.utf8.count
      try wire.detachProgram()
      try supervisor.process.waitFor(
        "the XDP program of nic0 was detached by somebody", after: length)
      try supervisor.process.waitFor("ended with status 1", after: length)
      try supervisor.process.waitFor("ready", after: length)
      print("XDP program detached: ready again after \(now() - begin) s")
      driver.process.end()
      driver = try wire.startEcho()
      try wire.expectExchange()

      // And another one put in its place: that one stays where it is until it is removed.  The daemon may
      // have noticed before it is there, but the next one must not come first.
      try wire.compilePass()
      length = supervisor.process.output.utf8.count
      supervisor.process.send(SIGSTOP)
      try wire.detachProgram()
      try wire.shell("ip -n $NETNS_NEAR link set nic0 xdp object $BACKEND_DIR/pass.o section xdp")
      supervisor.process.send(SIGCONT)
      try supervisor.process.waitFor("ended with status 1", after: length)
      try supervisor.process.waitFor("nic0 has the XDP program 'pass'", after: length)
      length = supervisor.process.output.utf8.count
      try wire.shell("ip -n $NETNS_NEAR link set nic0 xdp off")
      try supervisor.process.waitFor("ready", after: length)
      driver.process.end()
      driver = try wire.startEcho()
      try wire.expectExchange()
    }

    @Test("fewer queues than are served are refused by the kernel; more are warned of")
    func changedQueues() throws {
      let wire = try Wire(queues: 4)
      try wire.shell(
        "netns_near ethtool -L nic0 rx 2 tx 2; netns_far ethtool -L peer0 rx 2 tx 2")
      let daemon = try wire.startDaemon("--queues=2")
      let driver = try wire.startEcho(queues: 2)
      try wire.expectExchange()
      let before = try daemon.settledFootprint()
      let load = try EchoLoad(on: wire)
      try load.awaitEcho("the start")

      let fewer = try wire.attempt("netns_near ethtool -L nic0 rx 1 tx 1")
      #expect(fewer.status != .exited(0), "\(fewer.output)")
      try load.awaitEcho("a refused ethtool -L")

      // Packets that the NIC puts on a queue without a socket stay with the host.
      try wire.shell("netns_near ethtool -L nic0 rx 4 tx 4")
      try daemon.process.waitFor(
        "nic0 has 4 queues now, packets on those from 2 on do not reach the guest")
      try wire.shell("netns_near ethtool -L nic0 rx 2 tx 2")
      try daemon.process.waitFor("nic0 has 2 queues again")
      try load.awaitEcho("ethtool -L and back", log: daemon.process.log)
      load.end()
      try wire.expectExchange()
      try daemon.expectFootprint(before, "ethtool -L")
      #expect(driver.process.isRunning)
    }

    @Test("more events of interfaces than fit: the one that matters is not missed")
    func lostEvents() throws {
      let wire = try Wire()
      let daemon = try wire.startDaemon()
      try daemon.process.waitFor("ready")
      daemon.process.send(SIGSTOP)
      // Some 212 KiB fit.
      try wire.shell(
        """
        for _ in {1..300}; do
          echo link set nic0 txqueuelen 1001
          echo link set nic0 txqueuelen 1000
        done | ip -n $NETNS_NEAR -batch -
        ip -n $NETNS_NEAR link delete nic0
        """)
      daemon.process.send(SIGCONT)
      #expect(try daemon.process.wait() == .exited(1))
      #expect(daemon.process.output.contains("nic0 is gone"))
    }
  }
}

extension Wire {
  func compilePass() throws {
    try shell(
      """
      clang -O2 -target bpf -x c -c -o $BACKEND_DIR/pass.o - <<'END'
      __attribute__((section("xdp"), used)) int pass(void *context) { return 2; }
      END
      """)
  }

  /// Detaches the program of nic0 as only a privileged tool can: by its link (BPF_LINK_DETACH).
  func detachProgram() throws {
    let words = try programs.split(whereSeparator: \.isWhitespace)
    guard let label = words.firstIndex(of: "id"), let program = Int(words[label + 1]) else {
      throw HarnessError("no program: \(words)")
    }
    try shell("python3 - \(program) <<'END'\n\(Wire.detaching)\nEND")
  }

  private static let detaching = """
    import ctypes, struct, sys
    library = ctypes.CDLL(None, use_errno=True)
    def bpf(command, attributes):
        memory = ctypes.create_string_buffer(attributes.ljust(128, b'\\0'), 128)
        return library.syscall(321, command, memory, len(attributes)), memory.raw
    NEXT, GET, INFO, DETACH = 31, 30, 15, 34
    link, wanted, done = 0, int(sys.argv[1]), False
    while not done:
        result, answer = bpf(NEXT, struct.pack('III', link, 0, 0))
        if result < 0:
            sys.exit('no such link')
        link = struct.unpack_from('I', answer, 4)[0]
        descriptor, _ = bpf(GET, struct.pack('I', link))
        if descriptor < 0:
            continue
        info = ctypes.create_string_buffer(256)
        bpf(INFO, struct.pack('IIQ', descriptor, 256, ctypes.addressof(info)))
        if struct.unpack_from('III', info.raw)[2] == wanted:
            done = True
            if bpf(DETACH, struct.pack('I', descriptor))[0] < 0:
                sys.exit('not detached')
    """
}
