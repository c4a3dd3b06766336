import Glibc
import Testing

extension SystemTests {
  // Each fault comes under traffic, and afterwards all that is sent comes back, and the daemon holds
  // what it held. One that cannot open the interface again (the sandbox) ends with status 1, and
  // `Supervisor` starts it anew.
  @Suite("faults of the interface")
  struct InterfaceFaults {
    @Test("down and up, at either end: a warning, then all that is sent comes back")
    func downAndUp() throws {
      let wire = try Wire()
      let daemon = try wire.startDaemon()
      let driver = try wire.startEcho()
      try wire.expectExchange()
      let before = try daemon.settledFootprint()
      for (end, line) in [(Wire.End.near, "is down"), (.far, "has lost its carrier")] {
        let load = try EchoLoad(on: wire)
        try load.awaitEcho("the start")
        for round in 1...5 {
          let length = daemon.process.output.utf8.count
          try wire.setLink(end, "down")
          try daemon.process.waitFor(line, after: length)
          try wire.setLink(end, "up")
          let seconds = try load.awaitEcho("\(end) up \(round)", log: daemon.process.log)
          print("\(end.interface) down and up: traffic again after \(seconds) s")
        }
        load.end()
        try wire.expectExchange()
      }
      try daemon.expectFootprint(before, "down and up")
      #expect(daemon.process.isRunning && driver.process.isRunning)
    }

    @Test("deleted and created again: the daemon ends, its successor serves the driver")
    func deleted() throws {
      let wire = try Wire()
      let driver = try Testpmd(
        on: wire, "io", device: "server=1,queue_size=1024", options: Testpmd.wholeRings())
      try driver.process.waitFor("waiting for client connection")
      let supervisor = try Supervisor(on: wire, ["--client", "--interface=nic0", "--dedicated"])
      try driver.waitUntilReady()
      try driver.start()
      var before: Footprint?
      for round in 1...3 {
        let load = try EchoLoad(on: wire)
        try load.awaitEcho("start \(round)", log: supervisor.process.log)
        var length = supervisor.process.output.utf8.count
        try wire.shell("ip -n $NETNS_NEAR link delete nic0")
        try supervisor.process.waitFor(
          "nic0 is gone: it was deleted or moved; create it and start again", after: length)
        try supervisor.process.waitFor("ended with status 1", after: length)
        length = supervisor.process.output.utf8.count
        try supervisor.process.waitFor("there is no interface nic0", after: length)
        let begin = now()
        try wire.makeLink()
        try load.awaitEcho("creation \(round)", log: supervisor.process.log)
        print("deleted and created: traffic again after \(now() - begin) s")
        load.end()
        try wire.expectExchange()
        // Each is a daemon of its own: they must be alike, but for where mappings happen to meet.
        let last = try #require(supervisor.started.last)
        let daemon = Daemon(process: supervisor.process, pid: last)
        if let before {
          try daemon.expectFootprint(before, "round \(round)", otherMappings: 8)
        } else {
          before = try daemon.settledFootprint()
        }
      }
      #expect(supervisor.ends.allSatisfy { $0 == 1 })
    }

    @Test("the namespace of the other end is deleted: as if the interface was")
    func farNamespaceDeleted() throws {
      let wire = try Wire()
      let supervisor = try Supervisor(on: wire, ["--interface=nic0", "--dedicated"])
      try supervisor.process.waitFor("ready")
      var driver: Testpmd? = try wire.startEcho()
      try wire.expectExchange()
      let length = supervisor.process.output.utf8.count
      // With the last process in it a namespace goes, and one end of a veth takes the other along.
      driver?.process.end()
      driver = nil
      try wire.shell("ip netns delete $NETNS_FAR")
      try supervisor.process.waitFor("nic0 is gone", after: length)
      try supervisor.process.waitFor("ended with status 1", after: length)

      try wire.shell("ip netns add $NETNS_FAR; ip -n $NETNS_FAR link set lo up")
      let ready = supervisor.process.output.utf8.count
      try wire.makeLink()
      try supervisor.process.waitFor("ready", after: ready)
      driver = try wire.startEcho()
      try wire.expectExchange()
    }

    @Test("the name of its own namespace is deleted: nothing happens, for it lives there")
    func nearNamespaceDeleted() throws {
      let wire = try Wire()
      let daemon = try wire.startDaemon()
      let driver = try wire.startEcho()
      try wire.expectExchange()
      let before = try daemon.settledFootprint()
      try wire.shell("ip netns delete $NETNS_NEAR")
      try wire.expectExchange()
      try daemon.expectFootprint(before, "the deletion")
      // Its name, for the end of the test.
      try wire.shell("ip netns attach $NETNS_NEAR \(daemon.process.pid)")
      #expect(daemon.process.isRunning && driver.process.isRunning)
    }

    @Test("another MTU: what does not fit is dropped and counted, all else passes")
    func changedMTU() throws {
      let wire = try Wire()
      let daemon = try wire.startDaemon()
      let driver = try wire.startEcho()
      try wire.expectExchange()
      let before = try daemon.settledFootprint()
      let load = try EchoLoad(on: wire)
      for mtu in [9000, 1280, 576, 3000, 1500] {
        let length = daemon.process.output.utf8.count
        try wire.shell(
          "ip -n $NETNS_NEAR link set nic0 mtu \(mtu); ip -n $NETNS_FAR link set peer0 mtu \(mtu)")
        try load.awaitEcho("MTU \(mtu)", log: daemon.process.log)
        if mtu > 1500 {
          let line = try daemon.process.waitFor("nic0 has MTU \(mtu) now", after: length)
          #expect(line.contains("was started with 1500"))
        }
        if mtu == 9000 {
          let sent = try settledCount { try daemon.counter("rx_dropped") }
          try wire.send(count: 100, size: 8000, perSecond: 1000)
          try eventually(within: 30, "frames of 8000 bytes are counted", log: daemon.process.log) {
            try daemon.counter("rx_dropped") + daemon.counter("rx_too_long") >= sent + 100
          }
        }
      }
      load.end()
      try wire.expectExchange()
      try daemon.expectFootprint(before, "MTUs")
      #expect(driver.process.isRunning)
    }
  }
}

extension Wire {
  func setLink(_ end: End, _ state: String) throws {
    try shell("ip -n \(namespace(end)) link set \(end.interface) \(state)")
  }

  /// Makes the link between the namespaces anew, as it was.
  func makeLink(queues: Int = 1) throws {
    try shell(
      """
      ip -n $NETNS_NEAR link add nic0 numtxqueues \(queues) numrxqueues \(queues) type veth \\
        peer name peer0 netns $NETNS_FAR numtxqueues \(queues) numrxqueues \(queues)
      netns_far sysctl -qw net.ipv6.conf.peer0.disable_ipv6=1
      netns_far ethtool -K peer0 tx off >/dev/null
      ip -n $NETNS_FAR address add 10.77.0.1/24 dev peer0
      ip -n $NETNS_NEAR link set nic0 up
      ip -n $NETNS_FAR link set peer0 up
      """)
  }
}
