import Glibc
import Testing

extension SystemTests {
  @Suite("a Linux guest under QEMU", .enabled(if: Guest.isFetched, Guest.missing))
  struct GuestUnderQEMU {
    static let version1 = 32

    /// A property of QEMU's device, the feature bit that it takes away, and the guest's kernel.
    struct Variant: CustomTestStringConvertible {
      var property: String
      var feature: Int?
      var kernel = ""
      var testDescription: String {
        kernel.isEmpty ? property.isEmpty ? "default" : property : "Linux \(kernel)"
      }

      static let all = [
        Variant(property: ""),
        Variant(property: "mrg_rxbuf=off", feature: 15),
        Variant(property: "indirect_desc=off", feature: 28),
        Variant(property: "event_idx=off", feature: 29),
        Variant(property: "disable-modern=on", feature: version1),
        Variant(property: "", kernel: "6.1"),
        Variant(property: "", kernel: "newest"),
      ]
    }

    @Test("traffic of all kinds works, and bytes stay what they are", arguments: Variant.all)
    func traffic(variant: Variant) throws {
      let wire = try Wire()
      let daemon = try wire.startDaemon()
      let guest = try Guest(
        on: wire, device: variant.property.isEmpty ? "" : "," + variant.property,
        kernel: variant.kernel)
      try guest.waitUntilUp()

      for feature in Variant.all.compactMap(\.feature) {
        #expect(try guest.hasFeature(feature) == (feature != variant.feature), "feature \(feature)")
      }
      #expect(try guest.ping(count: 20) == 20)
      #expect(try guest.iperf(toGuest: false) > 1e6)
      #expect(try guest.iperf(toGuest: true) > 1e6)
      let sums = try guest.copyFile(megabytes: 16)
      #expect(sums.count == 3)
      #expect(Set(sums).count == 1)
      #expect(daemon.process.isRunning)
    }

    @Test("QEMU keeps its control queue to itself where the daemon offers one, and traffic passes")
    func controlQueue() throws {
      let wire = try Wire()
      let daemon = try wire.startDaemon("--control-queue")
      let guest = try Guest(on: wire)
      try guest.waitUntilUp()

      #expect(try guest.ping(count: 20) == 20)
      let sums = try guest.copyFile(megabytes: 1)
      #expect(sums.count == 3)
      #expect(Set(sums).count == 1)
      #expect(daemon.process.isRunning)
    }

    @Test("traffic passes behind an IOMMU of the guest")
    func iommu() throws {
      let wire = try Wire()
      let daemon = try wire.startDaemon()
      let guest = try Guest(on: wire, iommu: true)
      try guest.waitUntilUp()

      #expect(try guest.hasFeature(33))
      #expect(try guest.run("cat /sys/class/net/eth0/device/../iommu_group/type").contains("DMA"))
      #expect(try guest.ping(count: 20) == 20)
      let sums = try guest.copyFile(megabytes: 1)
      #expect(sums.count == 3)
      #expect(Set(sums).count == 1)
      #expect(daemon.process.isRunning)
    }

    @Test("a reboot of the guest starts fresh")
    func reboot() throws {
      let wire = try Wire()
      let daemon = try wire.startDaemon()
      let guest = try Guest(on: wire)
      try guest.waitUntilUp()
      #expect(try guest.ping(count: 5) == 5)
      let descriptors = try settledCount { daemon.descriptors }

      try wire.shell("guest_reboot")
      try guest.waitUntilUp()
      #expect(try guest.ping(count: 20) == 20)
      daemon.expectDescriptors(descriptors)
    }

    @Test("the driver is removed and loaded 20 times under traffic")
    func driverReload() throws {
      let wire = try Wire()
      let daemon = try wire.startDaemon()
      let guest = try Guest(on: wire)
      try guest.waitUntilUp()
      let descriptors = try settledCount { daemon.descriptors }

      // Broadcasts from the far end the whole time, and pings of the guest's own between.
      let sender = try wire.start(
        ["python3", "-c", Wire.sender(count: 1_000_000, size: 300, perSecond: 2000)], in: .far,
        name: "sender")
      let rounds = try guest.run(
        """
        for round in $(seq 20); do
          modprobe -r virtio_net && modprobe virtio_net || exit 1
          until [ -e /sys/class/net/eth0 ]; do usleep 20000; done
          ip link set eth0 up
          ip address replace 10.77.0.2/24 dev eth0
          ping -c 3 -i 0.05 -W 20 10.77.0.1 >/dev/null || { echo "round $round"; exit 1; }
        done
        echo all
        """, within: 600)
      #expect(rounds.hasPrefix("all"))
      #expect(sender.isRunning)
      sender.end()
      #expect(try guest.ping(count: 20) == 20)
      daemon.expectDescriptors(descriptors)
    }

    @Test("a daemon that is killed under a guest is followed by the next one")
    func daemonKilled() throws {
      let wire = try Wire()
      var daemon = try wire.startDaemon()
      let guest = try Guest(on: wire)
      try guest.waitUntilUp()
      for _ in 1...3 {
        daemon.process.send(SIGKILL)
        _ = try daemon.process.wait()
        daemon = try wire.startDaemon()
        try eventually(within: 60, "ping works again", log: daemon.process.log) {
          try wire.ping(count: 5, patience: 1) == 5
        }
      }
      #expect(try guest.ping(count: 20) == 20)
    }
  }
}
