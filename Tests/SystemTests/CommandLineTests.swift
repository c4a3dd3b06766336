import Glibc
import Testing

extension SystemTests {
  @Suite("the command")
  struct CommandLine {
    let wire: Wire
    init() throws { wire = try Wire() }

    @Test("--print-capabilities prints exactly the type, whatever else is there")
    func capabilities() throws {
      for rest in [[], ["--socket-path=/nowhere", "--interface=nothing"], ["--no-such-option"]] {
        let daemon = try wire.start(
          [Daemon.binary, "--print-capabilities"] + rest, in: .near, name: "capabilities")
        #expect(try daemon.wait() == .exited(0))
        #expect(daemon.output == #"{"type":"net"}"# + "\n")
      }
    }

    @Test(
      "SIGTERM and SIGINT end it in under a second with status 0", arguments: [SIGTERM, SIGINT])
    func termination(signal: Int32) throws {
      for isLoaded in [false, true] {
        // It takes milliseconds, but on a busy machine at times more than a second.
        var wasInTime = false
        for _ in 0..<5 where !wasInTime {
          let daemon = try wire.startDaemon()
          let driver = isLoaded ? try startTraffic() : nil
          let begin = now()
          daemon.process.send(signal)
          #expect(try daemon.process.wait() == .exited(0))
          let seconds = now() - begin
          driver?.process.end()
          // Then it has not ended in order, and the file stays.
          if daemon.process.output.contains("the threads did not end") { continue }
          #expect(!exists(wire.socket), "the socket file is gone")
          wasInTime = seconds < 1
        }
        #expect(wasInTime, "\(isLoaded ? "loaded" : "idle")")
      }
    }

    private func startTraffic() throws -> Testpmd {
      let driver = try wire.startTestpmd("txonly")
      let before = try wire.counter(.far, "rx_packets")
      try driver.start()
      try eventually(within: 30, "traffic flows") {
        try wire.counter(.far, "rx_packets") > before
      }
      return driver
    }

    @Test("what cannot start is one line with a non-zero status")
    func refusals() throws {
      let refused = [
        ["--interface=nosuch0"], ["--interface=nic0", "--queues=0"],
        ["--interface=nic0", "--queues=129"], ["--interface=nic0", "--mac=not-an-address"],
        ["--interface=generate:5"], ["--interface=null:", "--fd=1"], ["--nonsense"], [],
      ]
      for options in refused {
        let (status, output) = try wire.refusal(of: options)
        guard case .exited(let code) = status else {
          Issue.record("\(options): \(status)")
          continue
        }
        #expect(code != 0, "\(options)")
        #expect(output.split(separator: "\n").count == 1, "\(options): \(output)")
      }
    }

    @Test("the socket file of a dead daemon is replaced, that of a live one is not")
    func socketFile() throws {
      let dead = try wire.startDaemon(interface: ["--interface=null:"])
      dead.process.send(SIGKILL)
      _ = try dead.process.wait()
      #expect(exists(wire.socket))

      let live = try wire.startDaemon(interface: ["--interface=null:"])
      let (status, output) = try wire.refusal(of: ["--interface=null:"])
      #expect(status != .exited(0))
      #expect(output.contains("\(live.process.pid)"), "the owner is named: \(output)")

      // The refused one took nothing from the live one.
      let driver = try wire.startTestpmd("txonly")
      #expect(try driver.run(seconds: 0.2) { $0.transmitted > 0 }.transmitted > 0)
    }

    @Test("a file that is no socket is left alone")
    func otherFile() throws {
      try wire.shell("echo precious >$SOCKET")
      let (status, _) = try wire.refusal(of: ["--interface=null:"])
      #expect(status != .exited(0))
      #expect(contents(of: wire.socket) == "precious\n")
    }

    @Test("a second daemon on one interface is refused, and the first one named")
    func secondDaemon() throws {
      let first = try wire.startDaemon()
      let (status, output) = try wire.refusal(
        of: ["--interface=nic0", "--dedicated"], socket: wire.socket + "2")
      #expect(status != .exited(0))
      #expect(output.contains("\(first.process.pid)"), "the owner is named: \(output)")

      let driver = try wire.startTestpmd("icmpecho")
      try driver.start()
      #expect(try wire.ping(count: 10) == 10)
    }

    @Test("an interface that the host uses is refused unless the command line says how")
    func usedInterface() throws {
      try wire.shell("ip -n $NETNS_NEAR address add 10.77.0.3/24 dev nic0")
      let (status, output) = try wire.refusal(of: ["--interface=nic0"])
      #expect(status != .exited(0))
      #expect(output.contains("10.77.0.3"))
      #expect(output.contains("--mac") && output.contains("--dedicated"))

      let steered = try wire.startDaemon(interface: ["--interface=nic0", "--mac=02:00:00:00:00:01"])
      steered.process.end()
      _ = try wire.startDaemon()
    }

    @Test("somebody else's XDP program stays where it is, and is reported")
    func foreignProgram() throws {
      try wire.attachForeignProgram()
      let before = try wire.programs
      #expect(!before.isEmpty)
      let (status, output) = try wire.refusal(of: ["--interface=nic0", "--dedicated"])
      #expect(status != .exited(0))
      #expect(output.contains("XDP program"))
      #expect(try wire.programs == before)
    }

    @Test("after SIGTERM or kill -9 the interface is as it was", arguments: [SIGTERM, SIGKILL])
    func interfaceRestored(signal: Int32) throws {
      #expect(try wire.promiscuity == 0)
      let daemon = try wire.startDaemon()
      #expect(try wire.promiscuity == 1)
      #expect(try !wire.programs.isEmpty)

      daemon.process.send(signal)
      _ = try daemon.process.wait()
      try wire.expectRestored()

      // The kernel frees a dead process's sockets with a delay: a successor has to live with it.
      _ = try wire.startDaemon()
    }

    @Test("--no-promiscuous leaves the receive filter alone")
    func notPromiscuous() throws {
      _ = try wire.startDaemon("--no-promiscuous")
      #expect(try wire.promiscuity == 0)
    }

    @Test("an interface that is down is brought up")
    func broughtUp() throws {
      try wire.shell("ip -n $NETNS_NEAR link set nic0 down")
      _ = try wire.startDaemon()
      #expect(try wire.linkDetails.contains(",UP"))
      let driver = try wire.startTestpmd("icmpecho")
      try driver.start()
      try eventually(within: 30, "ping works") { try wire.ping(count: 5, patience: 1) == 5 }
    }

    @Test(
      "both XDP modes carry traffic, and the log names the one in use",
      arguments: ["native", "skb"])
    func modes(mode: String) throws {
      let daemon = try wire.startDaemon("--xdp-mode=\(mode)")
      try daemon.process.waitFor("queue 0: \(mode), copy")
      let driver = try wire.startTestpmd("icmpecho")
      try driver.start()
      #expect(try wire.ping(count: 20) == 20)
    }

    @Test("--fd takes a connected socket, and the daemon ends with that connection")
    func connectedSocket() throws {
      let driver = try Testpmd(on: wire, "icmpecho", device: "server=1")
      try eventually(within: 60, "testpmd listens", log: driver.process.log) {
        isListened(wire.socket, by: driver.process)
      }
      let program = """
        import os, socket, sys
        connection = socket.socket(socket.AF_UNIX)
        connection.connect('\(wire.socket)')
        os.set_inheritable(connection.fileno(), True)
        os.execv(sys.argv[1], sys.argv[1:] + [f'--fd={connection.fileno()}'])
        """
      let daemon = try wire.start(
        ["python3", "-c", program, Daemon.binary, "--interface=nic0", "--dedicated"], in: .near,
        name: "daemon")
      try driver.waitUntilReady()
      try driver.start()
      #expect(try wire.ping(count: 10) == 10)

      try driver.kill()
      #expect(try daemon.wait() == .exited(0))
    }

    @Test("queues of the interface without a pair, and pairs without a queue, are served and said")
    func unevenQueues() throws {
      let wide = try Wire(queues: 2)
      for (pairs, line) in [
        (1, "queue 1 feeds the pairs that the guest uses"),
        (3, "pair 2 transmits through the queues of the others"),
      ] {
        let daemon = try wide.startDaemon("--queues=\(pairs)")
        try daemon.process.waitFor(line)
        try daemon.process.waitFor("nic0 queue 1: ")
        daemon.process.end()
      }
    }

    @Test("the log names what a front-end negotiated and the mode of each queue")
    func readyLines() throws {
      let daemon = try wire.startDaemon()
      _ = try wire.startTestpmd("rxonly")
      try daemon.process.waitFor("VERSION_1")
      #expect(daemon.process.output.contains("native"))
      #expect(daemon.process.output.contains("copy"))
    }
  }
}
