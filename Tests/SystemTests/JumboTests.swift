// Packets larger than a frame: a veth of MTU 9000, with DPDK and with a Linux guest.
import Testing

extension SystemTests {
  @Suite("Jumbo packets on a veth of MTU 9000")
  struct Jumbo {
    let wire: Wire
    init() throws { wire = try Wire(mtu: 9000) }

    /// What testpmd takes one packet of a size from: buffers of 2 KiB.
    private static func segments(_ size: Int) -> String {
      let full = Array(repeating: "2000", count: size / 2000)
      return (full + (size % 2000 > 0 ? ["\(size % 2000)"] : [])).joined(separator: ",")
    }

    @Test(
      "every jumbo packet that a driver transmits arrives whole at the far end",
      arguments: ["native", "skb"], [3900, 9014])
    func transmit(mode: String, size: Int) throws {
      let daemon = try wire.startDaemon("--xdp-mode=\(mode)")
      try daemon.process.waitFor("queue 0: \(mode), copy")
      let driver = try wire.startTestpmd(
        "txonly", options: ["--txpkts=\(Self.segments(size))", "--burst=8"])
      let arrivals = try wire.arrivals()

      let sent = try driver.run(seconds: 0.5) { $0.transmitted > 100 }.transmitted

      #expect(sent > 100)
      try arrivals.expect(sent, size: size)
      #expect(try daemon.losses() == [:])
    }

    @Test(
      "every jumbo packet of the far end reaches the driver, in one buffer or in several",
      arguments: ["native", "skb"], [0, 1])
    func receive(mode: String, mergeable: Int) throws {
      let daemon = try wire.startDaemon("--xdp-mode=\(mode)")
      // Without MRG_RXBUF a buffer has to take the whole packet.
      let options =
        Testpmd.wholeRings() + (mergeable == 1 ? [] : ["--mbuf-size=10240"])
      let driver = try wire.startTestpmd(
        "rxonly", device: "mrg_rxbuf=\(mergeable),queue_size=1024", options: options)
      try driver.start()
      let before = try wire.settled(.far, "tx_packets")

      // One takes five buffers of 2 KiB.
      try wire.send(count: 500, size: 9014, perSecond: 1000, to: driver, portion: 150)

      let sent = try wire.settled(.far, "tx_packets", atLeast: before + 500) - before
      let received = try driver.stop().received
      #expect(sent == 500)
      #expect(received == sent)
      #expect(try daemon.losses() == [:])
    }

    @Test(
      "a Linux guest with host_mtu=9000 exchanges packets of every size",
      .enabled(if: Guest.isFetched, "no QEMU and kernel: run Tests/System/lab/artifacts.sh"))
    func guest() throws {
      let daemon = try wire.startDaemon()
      let guest = try Guest(on: wire, device: ",host_mtu=9000")
      try guest.waitUntilUp()
      #expect(try guest.run("cat /sys/class/net/eth0/mtu").contains("9000"))
      // Around the borders of frames, and the largest: 28 bytes of ICMP and IP, 14 of Ethernet.
      for size in [56, 3797, 3798, 3799, 7638, 7639, 8972] {
        #expect(try wire.ping(count: 10, size: size) == 10, "\(size)")
        #expect(try guest.ping(count: 10, size: size) == 10, "\(size)")
      }
      #expect(try daemon.losses() == [:])
      let sums = try guest.copyFile(megabytes: 16)
      #expect(sums.count == 3 && Set(sums).count == 1, "\(sums)")
      #expect(try guest.iperf(toGuest: true) > 1e6)
      #expect(try guest.iperf(toGuest: false) > 1e6)
      #expect(try daemon.faults() == [:])
    }
  }
}
