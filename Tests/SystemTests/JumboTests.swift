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
      let before = try wire.settled(.far, "rx_packets")
      let bytesBefore = try wire.counter(.far, "rx_bytes")

      let sent = try driver.run(seconds: 0.5).transmitted

      let arrived = try wire.settled(.far, "rx_packets") - before
      #expect(sent > 100)
      #expect(arrived == sent)
      #expect(try wire.counter(.far, "rx_bytes") - bytesBefore == sent * size)
      #expect(try daemon.losses() == [:])
    }

    @Test(
      "every jumbo packet of the far end reaches the driver, in one buffer or in several",
      arguments: ["native", "skb"], [0, 1])
    func receive(mode: String, mergeable: Int) throws {
      let daemon = try wire.startDaemon("--xdp-mode=\(mode)")
      // Without MRG_RXBUF a buffer has to take the whole packet.
      let options =
        mergeable == 1 ? [] : ["--mbuf-size=10240"]
      let driver = try wire.startTestpmd(
        "rxonly", device: "mrg_rxbuf=\(mergeable),queue_size=1024", options: options)
      try driver.start()
      let before = try wire.settled(.far, "tx_packets")

      try wire.send(count: 500, size: 9014, perSecond: 1000)

      let sent = try wire.settled(.far, "tx_packets") - before
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
        let inward = try wire.shell(
          "netns_far busybox ping -c 10 -i 0.05 -W 2 -s \(size) 10.77.0.2 || true", within: 60)
        #expect(inward.contains(" 10 packets received"), "\(size): \(inward)")
        let outward = try guest.run("ping -c 10 -i 0.05 -W 2 -s \(size) 10.77.0.1 || true")
        #expect(outward.contains(" 10 packets received"), "\(size): \(outward)")
      }
      let sums = try guest.copyFile(megabytes: 16)
      #expect(sums.count == 3 && Set(sums).count == 1, "\(sums)")
      #expect(try guest.iperf(toGuest: true) > 1e6)
      #expect(try guest.iperf(toGuest: false) > 1e6)
      #expect(try daemon.losses() == [:])
    }
  }
}
