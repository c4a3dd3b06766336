import Testing

extension SystemTests {
  @Suite("DPDK virtio-user on a veth")
  struct TransmitReceive {
    let wire: Wire
    init() throws { wire = try Wire() }

    @Test(
      "every packet that the driver transmits arrives at the far end",
      arguments: [64, 512, 1500], ["mrg_rxbuf=0,packed_vq=0", "mrg_rxbuf=1,packed_vq=0"])
    func transmit(size: Int, device: String) throws {
      let daemon = try wire.startDaemon()
      let driver = try wire.startTestpmd("txonly", device: device, options: ["--txpkts=\(size)"])
      let arrivals = try wire.arrivals()

      let sent = try driver.run(seconds: 0.5).transmitted

      #expect(sent > 1000)
      try arrivals.expect(sent, size: size)
      #expect(try daemon.losses() == [:])
    }

    @Test(
      "every packet of the far end reaches the driver, at a rate that it can take",
      arguments: [64, 512, 1500], ["mrg_rxbuf=0,packed_vq=0", "mrg_rxbuf=1,packed_vq=0"])
    func receive(size: Int, device: String) throws {
      let daemon = try wire.startDaemon()
      let driver = try wire.startTestpmd(
        "rxonly", device: device + ",queue_size=1024", options: Testpmd.wholeRings())
      try driver.start()
      let before = try wire.settled(.far, "tx_packets")

      try wire.send(count: 4000, size: size, perSecond: 4000, to: driver)

      let sent = try wire.settled(.far, "tx_packets", atLeast: before + 4000) - before
      let received = try driver.stop().received
      #expect(sent == 4000)
      #expect(received == sent)
      #expect(try daemon.losses() == [:])
    }

    @Test("what a driver without buffers cannot take is dropped, and counted")
    func receiveWithoutBuffers() throws {
      let daemon = try wire.startDaemon()
      // Its ring is full of buffers (256), of which it gives none back while it does not forward;
      // what came in them it counts when it does.
      let driver = try wire.startTestpmd("rxonly", options: ["--no-flush-rx"])
      let before = try wire.settled(.far, "tx_packets")

      try wire.send(count: 20000, size: 64, perSecond: 40000)

      let sent = try wire.settled(.far, "tx_packets", atLeast: before + 20000) - before
      var losses: [String: Int] = [:]
      let received = try driver.run(seconds: 0.5) {
        losses = try daemon.losses()
        return $0.received > 0 && $0.received + losses.values.reduce(0, +) >= sent
      }.received
      losses = try daemon.losses()
      #expect(!losses.isEmpty)
      #expect(received + losses.values.reduce(0, +) == sent, "\(losses)")
    }

    @Test("a ping from the far end comes back, each time")
    func bothDirections() throws {
      _ = try wire.startDaemon()
      let driver = try wire.startTestpmd("icmpecho")
      try driver.start()
      #expect(try wire.ping(count: 50) == 50)
    }
  }
}
