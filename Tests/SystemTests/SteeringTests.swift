import Testing

extension SystemTests {
  @Suite("which frames reach the guest")
  struct Steering {
    static let guestAddress = "02:00:00:00:00:01"

    @Test("with --mac the guest gets its own frames, and the host keeps its interface")
    func sharedInterface() throws {
      let wire = try Wire()
      try wire.shell("ip -n $NETNS_NEAR address add 10.77.0.3/24 dev nic0")
      _ = try wire.startDaemon(interface: ["--interface=nic0", "--mac=\(Self.guestAddress)"])
      let driver = try wire.startTestpmd("icmpecho", device: "mac=\(Self.guestAddress)")
      try driver.start()
      // The broadcasts of ARP go to the guest; so the far end is told where the host is.
      try wire.shell(
        """
        address=$(netns_near cat /sys/class/net/nic0/address)
        netns_far ip neighbour add 10.77.0.3 lladdr $address dev peer0
        """)

      #expect(try wire.ping(count: 20) == 20)
      let seen = try wire.settled(.far, "tx_packets")
      #expect(try wire.ping("10.77.0.3", count: 20) == 20)
      // ARP and 20 echos were for the host, none of them for the guest.
      let sent = try wire.settled(.far, "tx_packets", atLeast: seen + 20) - seen
      let received = try driver.stop().received
      #expect(sent >= 20)
      #expect(received < seen + sent - 20)
    }

    @Test("a guest that uses one of two queue pairs gets the frames of both queues")
    func oneOfTwoPairs() throws {
      try flows(pairs: 1)
    }

    @Test("a guest that uses both queue pairs gets the frames of both queues")
    func bothPairs() throws {
      try flows(pairs: 2)
    }

    @Test("a queue of the interface beyond the queue pairs feeds the guest")
    func moreQueuesThanPairs() throws {
      try flows(pairs: 1, daemonPairs: 1)
    }

    @Test("a guest with more queue pairs than the interface has queues gets every frame")
    func morePairsThanQueues() throws {
      try flows(pairs: 3, daemonPairs: 3)
    }

    /// Frames of many flows, which the far end spreads over two queues.
    private func flows(pairs: Int, daemonPairs: Int = 2) throws {
      let wire = try Wire(queues: 2)
      let daemon = try wire.startDaemon("--queues=\(daemonPairs)")
      let driver = try wire.startTestpmd(
        "rxonly", device: "mac=\(Self.guestAddress),queues=\(pairs),queue_size=1024",
        options: Testpmd.wholeRings(queues: pairs))
      try driver.start()
      try wire.shell("netns_far ip neighbour add 10.77.0.2 lladdr \(Self.guestAddress) dev peer0")
      let before = try wire.settled(.far, "tx_packets")

      try wire.sendFlows(64, perFlow: 30, to: driver)

      let sent = try wire.settled(.far, "tx_packets", atLeast: before + 64 * 30) - before
      let received = try driver.stop().received
      #expect(sent == 64 * 30)
      #expect(received == sent)
      for queue in 0..<2 { #expect(try wire.packets(onQueue: queue) > 0, "queue \(queue)") }
      #expect(try daemon.losses() == [:])
    }
  }
}
