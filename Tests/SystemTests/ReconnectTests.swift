import Glibc
import Testing

extension SystemTests {
  @Suite("either side dies and comes back")
  struct Reconnect {
    let wire: Wire
    init() throws { wire = try Wire() }

    @Test("a killed front-end is followed by the next one, and nothing of it stays in the daemon")
    func frontEndKilled() throws {
      let daemon = try wire.startDaemon()
      var idle: Int?
      for round in 1...5 {
        let driver = try wire.startTestpmd("txonly")
        let before = try wire.counter(.far, "rx_packets")
        try driver.start()
        try eventually(within: 60, "traffic flows in round \(round)", log: daemon.process.log) {
          try wire.counter(.far, "rx_packets") > before + 1000
        }
        try driver.kill()
        try eventually(within: 30, "the guest's memory is unmapped", log: daemon.process.log) {
          daemon.guestMappings == 0
        }
        if let idle {
          daemon.expectDescriptors(idle)
        } else {
          idle = try settledCount { daemon.descriptors }
        }
      }
    }

    @Test("a killed daemon is followed by the next one under a running driver, both ways")
    func daemonKilled() throws {
      let driver = try Testpmd(on: wire, "icmpecho", device: "server=1")
      try driver.process.waitFor("waiting for client connection")
      var descriptors: Int?
      for round in 1...6 {
        let daemon = try wire.startDaemon("--client")
        if round == 1 {
          try driver.waitUntilReady()
          try driver.start()
        }
        var answers = 0
        try eventually(within: 60, "ping works in round \(round)", log: daemon.process.log) {
          answers = try wire.ping(count: 10, patience: 1)
          return answers == 10
        }
        if let descriptors {
          daemon.expectDescriptors(descriptors)
        } else {
          descriptors = try settledCount { daemon.descriptors }
        }
        daemon.process.send(SIGKILL)
        #expect(try daemon.process.wait() == .killed(bySignal: SIGKILL))
      }
    }

    @Test("a daemon that starts before its front-end's server waits for it")
    func clientFirst() throws {
      _ = try wire.startDaemon("--client")
      sleep(0.5)
      let driver = try Testpmd(on: wire, "icmpecho", device: "server=1")
      try driver.waitUntilReady()
      try driver.start()
      try eventually(within: 60, "ping works") { try wire.ping(count: 10, patience: 1) == 10 }
    }
  }
}
