import Testing

extension SystemTests {
  @Suite("a guest with two queue pairs", .enabled(if: Guest.isFetched, Guest.missing))
  struct Channels {
    @Test("uses both, or one of them, and changes its mind and its rings under traffic both ways")
    func changed() throws {
      let wire = try Wire(queues: 2)
      let daemon = try wire.startDaemon("--queues=2")
      let guest = try Guest(on: wire, queues: 2)
      try guest.waitUntilUp()

      let stream = try guest.startStreams(seconds: 15)
      for pairs in [1, 2, 1, 2, 1, 2, 1] {
        try guest.run("ethtool -L eth0 combined \(pairs)")
        try guest.expectPings(5, daemon, "\(pairs) pairs")
      }
      // QEMU resets a queue of a vhost-user device without a word to the back-end, which would go on
      // with the old ring. So RING_RESET is not offered, and the guest's driver refuses.
      #expect(try !guest.hasFeature(40), "RING_RESET")
      for size in [256, 512] {
        try guest.run("! ethtool -G eth0 rx \(size) tx \(size)")
        try guest.expectPings(5, daemon, "rings of \(size)")
      }
      try stream.expectGood()
      // With one pair the frames of both NIC queues reach it.
      for pairs in [1, 2] {
        try guest.run("ethtool -L eth0 combined \(pairs)")
        try guest.expectFlows(64, perFlow: 10)
      }
      for queue in 0..<2 { #expect(try wire.packets(onQueue: queue) > 0, "queue \(queue)") }
      #expect(daemon.complaints == [])
    }
  }
}

extension Guest {
  /// TCP both ways in two streams each, with nothing waiting for it.
  struct Streams {
    fileprivate let guest: Guest
    fileprivate let server: ChildProcess

    /// It ends in order, and both ways moved data to the end.
    func expectGood() throws {
      let output = try guest.run(
        "until grep -q ended /tmp/streams; do usleep 100000; done; cat /tmp/streams", within: 300)
      #expect(output.contains("ended 0"), "\(output.suffix(1500))")
      // The last line of each direction: what the receiver got.
      let received = output.split(separator: "\n").filter {
        $0.contains("SUM") && $0.contains("receiver")
      }
      #expect(received.count == 2, "\(output.suffix(1500))")
      for line in received { #expect(!line.contains(" 0.00 "), "\(line)") }
    }
  }

  func startStreams(seconds: Int) throws -> Streams {
    let server = try wire.start(
      ["iperf3", "--server", "--one-off", "--forceflush", "--bind", "10.77.0.1"], in: .far,
      name: "iperf3")
    try server.waitFor("listening")
    try run(
      """
      (iperf3 --client 10.77.0.1 --bidir --parallel 2 --time \(seconds); echo ended $?) \
        >/tmp/streams 2>&1 &
      """)
    return Streams(guest: self, server: server)
  }

  /// Sends datagrams of many flows, which the far end spreads over its queues; all arrive.
  fileprivate func expectFlows(_ flows: Int, perFlow: Int) throws {
    let count = "cat /sys/class/net/eth0/statistics/rx_packets"
    func received() throws -> Int { Int(try run(count).filter(\.isNumber)) ?? 0 }
    let before = try received()
    try wire.sendFlows(flows, perFlow: perFlow)
    var after = before
    try? eventually(within: 20, "all flows arrive") {
      after = try received()
      return after - before >= flows * perFlow
    }
    #expect(after - before >= flows * perFlow)
  }

  /// Pings the far end beside a stream that fills the rings: what these have no room for when the guest
  /// stands still is lost, and counted by the daemon; nothing else is.
  fileprivate func expectPings(_ count: Int, _ daemon: Daemon, _ occasion: String) throws {
    var before: [String: Int] = [:]
    var answers = 0
    for _ in 0..<5 {
      before = try daemon.losses()
      answers = try ping(count: count)
      if try answers == count || daemon.losses() == before { break }
    }
    #expect(answers == count, "\(occasion)")
  }
}
