import Testing

extension SystemTests {
  // DPDK has a driver of its own for each combination of ring format, buffer layout and order, and
  // names the ones that it has chosen: a row that asks for one and gets another one is no test.
  @Suite("DPDK virtio-user, each of its drivers")
  struct VirtioUser {
    struct Driver: CustomTestStringConvertible {
      /// What DPDK calls the driver that it chooses to receive, and to transmit.
      var receive: String
      var transmit: String
      /// Arguments of net_virtio_user.
      var device: String
      /// AVX-512 is in it.
      var isWide = false
      var testDescription: String { device }

      private static let each = [
        Driver(
          receive: "mergeable buffer Rx", transmit: "standard Tx",
          device: "packed_vq=0,mrg_rxbuf=1,in_order=0"),
        Driver(
          receive: "standard Rx", transmit: "standard Tx",
          device: "packed_vq=0,mrg_rxbuf=0,in_order=0"),
        Driver(
          receive: "vectorized Rx", transmit: "standard Tx",
          device: "packed_vq=0,mrg_rxbuf=0,in_order=0,vectorized=1"),
        Driver(
          receive: "inorder Rx", transmit: "inorder Tx",
          device: "packed_vq=0,mrg_rxbuf=1,in_order=1"),
        Driver(
          receive: "inorder Rx", transmit: "inorder Tx",
          device: "packed_vq=0,mrg_rxbuf=0,in_order=1"),
        Driver(
          receive: "packed ring mergeable buffer Rx", transmit: "packed ring standard Tx",
          device: "packed_vq=1,mrg_rxbuf=1,in_order=0"),
        Driver(
          receive: "packed ring standard Rx", transmit: "packed ring standard Tx",
          device: "packed_vq=1,mrg_rxbuf=0,in_order=0"),
        Driver(
          receive: "packed ring mergeable buffer Rx", transmit: "packed ring standard Tx",
          device: "packed_vq=1,mrg_rxbuf=1,in_order=1"),
        Driver(
          receive: "packed ring vectorized Rx", transmit: "packed ring vectorized Tx",
          device: "packed_vq=1,mrg_rxbuf=0,in_order=1,vectorized=1", isWide: true),
      ]

      /// Those that DPDK has on this machine.
      static let all = each.filter {
        !$0.isWide || contents(of: "/proc/cpuinfo").contains("avx512f")
      }
    }

    static let guestAddress = "02:00:00:00:00:01"

    @Test(
      "every packet arrives, both ways, of one and of several buffers", arguments: Driver.all,
      [1, 2])
    func exact(driver: Driver, queues: Int) throws {
      let wire = try Wire(queues: queues)
      let daemon = try wire.startDaemon("--queues=\(queues)")
      let testpmd = try wire.startTestpmd(
        "txonly",
        device: "mac=\(Self.guestAddress),queues=\(queues),queue_size=1024,\(driver.device)",
        options: Testpmd.wholeRings(queues: queues))
      try transfer(wire, daemon, testpmd, queues: queues)
      for used in [driver.receive, driver.transmit] {
        #expect(testpmd.process.output.contains("using \(used)"), "\(testpmd.process.output)")
      }
    }

    @Test("every packet arrives with DPDK as the server of the socket", arguments: [1, 2])
    func server(queues: Int) throws {
      let wire = try Wire(queues: queues)
      let testpmd = try Testpmd(
        on: wire, "txonly",
        device: "mac=\(Self.guestAddress),queues=\(queues),queue_size=1024,server=1",
        options: Testpmd.wholeRings(queues: queues))
      let daemon = try wire.startDaemon("--queues=\(queues)", "--client")
      try testpmd.waitUntilReady()
      try transfer(wire, daemon, testpmd, queues: queues)
    }

    private func transfer(
      _ wire: Wire, _ daemon: Daemon, _ testpmd: Testpmd, queues: Int
    ) throws {
      for sizes in ["64", "1500", "60,1000,400"] {
        try testpmd.command("set txpkts \(sizes)")
        let arrivals = try wire.arrivals()
        let sent = try testpmd.run(seconds: 0.2).transmitted
        let size = sizes.split(separator: ",").reduce(0) { $0 + Int($1)! }
        #expect(sent > 100)
        try arrivals.expect(sent, size: size, sizes)
      }

      try testpmd.command("set fwd rxonly")
      try wire.shell("netns_far ip neighbour add 10.77.0.2 lladdr \(Self.guestAddress) dev peer0")
      let before = try wire.settled(.far, "tx_packets")
      try testpmd.start()
      try wire.send(count: 1000, size: 1500, perSecond: 4000, to: testpmd)
      try wire.sendFlows(64, perFlow: 15, to: testpmd)
      let expected = 1000 + 64 * 15
      let sent = try wire.settled(.far, "tx_packets", atLeast: before + expected) - before
      #expect(sent == expected)
      #expect(try testpmd.stop().received == sent)
      for queue in 0..<queues { #expect(try wire.packets(onQueue: queue) > 0, "queue \(queue)") }
      #expect(try daemon.losses() == [:])
    }
  }
}
