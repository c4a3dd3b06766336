import Testing

extension SystemTests {
  @Suite("ports without an interface")
  struct StandInPorts {
    let wire: Wire
    init() throws { wire = try Wire() }

    @Test("null: takes every packet of the driver")
    func null() throws {
      let daemon = try wire.startDaemon(interface: ["--interface=null:"])
      let driver = try wire.startTestpmd("txonly")
      let sent = try driver.run(seconds: 0.5).transmitted
      #expect(sent > 1000)
      try eventually(within: 30, "all \(sent) packets are taken", log: daemon.process.log) {
        try daemon.counter("packets") == sent
      }
      #expect(try daemon.losses() == [:])
    }

    @Test("reflect: gives the driver back what it transmits")
    func reflect() throws {
      let daemon = try wire.startDaemon(interface: ["--interface=reflect:"])
      let driver = try wire.startTestpmd("io", options: ["--port-topology=loop"])
      let before = try driver.counts()
      try driver.start("tx_first")
      try driver.forward(seconds: 0.5, since: before) { $0.received > 1000 }
      let counts = try driver.stop()
      #expect(counts.received > 1000 && counts.transmitted >= counts.received)
      #expect(try daemon.losses() == [:])
    }

    @Test("generate: fills the driver's rings, with frames of the size that was asked for")
    func generate() throws {
      let daemon = try wire.startDaemon(interface: ["--interface=generate:64"])
      let driver = try wire.startTestpmd("rxonly")
      let received = try driver.run(seconds: 0.5).received
      #expect(received > 1000)
      let (packets, bytes) = (try daemon.counter("packets"), try daemon.counter("bytes"))
      #expect(packets >= received)
      #expect(bytes >= received * 64 && bytes % 64 == 0)
    }

    @Test(
      "a control queue that is offered does not disturb a front-end that serves its own",
      arguments: ["", "cq=1"])
    func controlQueue(device: String) throws {
      let daemon = try wire.startDaemon(interface: ["--interface=generate:64", "--control-queue"])
      let driver = try wire.startTestpmd("rxonly", device: device)
      try driver.command("set promisc 0 off")
      #expect(try driver.run(seconds: 0.5).received > 1000)
      #expect(try daemon.losses() == [:])
    }

    @Test("generate: takes what the driver transmits while it supplies")
    func generateBothDirections() throws {
      _ = try wire.startDaemon(interface: ["--interface=generate:64"])
      let driver = try wire.startTestpmd("mac")
      let counts = try driver.run(seconds: 0.5) { $0.received > 1000 && $0.transmitted > 1000 }
      #expect(counts.received > 1000)
      #expect(counts.transmitted > 1000)
    }
  }
}
