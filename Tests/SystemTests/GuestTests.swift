import Glibc
import Testing

extension SystemTests {
  @Suite(
    "a Linux guest under QEMU",
    .enabled(if: Guest.isFetched, "no QEMU and kernel: run Tests/System/lab/artifacts.sh"))
  struct GuestUnderQEMU {
    static let version1 = 32

    /// A property of QEMU's device, and the feature bit that it takes away.
    struct Variant: CustomTestStringConvertible {
      var property: String
      var feature: Int?
      var testDescription: String { property.isEmpty ? "default" : property }

      static let all = [
        Variant(property: ""),
        Variant(property: "mrg_rxbuf=off", feature: 15),
        Variant(property: "indirect_desc=off", feature: 28),
        Variant(property: "event_idx=off", feature: 29),
        Variant(property: "disable-modern=on", feature: version1),
      ]
    }

    @Test("traffic of all kinds works, and bytes stay what they are", arguments: Variant.all)
    func traffic(variant: Variant) throws {
      let wire = try Wire()
      let daemon = try wire.startDaemon()
      let guest = try Guest(
        on: wire, device: variant.property.isEmpty ? "" : "," + variant.property)
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

    @Test("a reboot of the guest starts fresh")
    func reboot() throws {
      let wire = try Wire()
      let daemon = try wire.startDaemon()
      let guest = try Guest(on: wire)
      try guest.waitUntilUp()
      #expect(try guest.ping(count: 5) == 5)
      let descriptors = daemon.descriptors

      try wire.shell("guest_reboot")
      try guest.waitUntilUp()
      #expect(try guest.ping(count: 20) == 20)
      #expect(daemon.descriptors == descriptors)
    }

    @Test("the driver is removed and loaded 20 times under traffic")
    func driverReload() throws {
      let wire = try Wire()
      let daemon = try wire.startDaemon()
      let guest = try Guest(on: wire)
      try guest.waitUntilUp()
      let descriptors = daemon.descriptors

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
          ping -c 3 -i 0.05 -W 3 10.77.0.1 >/dev/null || { echo "round $round"; exit 1; }
        done
        echo all
        """, within: 180)
      #expect(rounds.hasPrefix("all"))
      #expect(sender.isRunning)
      sender.end()
      #expect(try guest.ping(count: 20) == 20)
      #expect(daemon.descriptors == descriptors)
    }

    // iPXE's driver is a modern one whenever the device is: Linux is the legacy one, then modern.
    @Test("iPXE, a legacy and a modern Linux follow each other on one connection")
    func firmware() throws {
      let wire = try Wire()
      let daemon = try wire.startDaemon()
      try wire.shell("GUEST_APPEND=virtio_pci.force_legacy=1 netboot_serve")
      let guest = try Guest(on: wire, netboot: true)
      try guest.waitUntilUp(within: 120)
      #expect(try !guest.hasFeature(Self.version1))
      #expect(try guest.ping(count: 20) == 20)
      let descriptors = daemon.descriptors

      try wire.shell("netboot_append ''; guest_reboot")
      try guest.waitUntilUp(within: 120)
      #expect(try guest.hasFeature(Self.version1))
      #expect(try guest.ping(count: 20) == 20)
      #expect(daemon.descriptors == descriptors)
    }

    @Test("a guest with two queue pairs uses both, or one of them, and misses nothing")
    func multiqueue() throws {
      let wire = try Wire(queues: 2)
      _ = try wire.startDaemon("--queues=2")
      let guest = try Guest(on: wire, queues: 2)
      try guest.waitUntilUp()
      for pairs in [2, 1, 2] {
        try guest.run("ethtool -L eth0 combined \(pairs)")
        #expect(try guest.ping(count: 20) == 20)
        #expect(try guest.iperf(toGuest: false, streams: 4) > 1e6)
        #expect(try guest.iperf(toGuest: true, streams: 4) > 1e6)
      }
      for queue in 0..<2 { #expect(try wire.packets(onQueue: queue) > 0, "queue \(queue)") }
    }

    @Test("a daemon that is killed under a guest is followed by the next one")
    func daemonKilled() throws {
      let wire = try Wire()
      var daemon = try wire.startDaemon()
      let guest = try Guest(on: wire)
      try guest.waitUntilUp()
      for _ in 1...3 {
        daemon.process.send(SIGKILL)
        _ = try daemon.process.wait(within: 2)
        daemon = try wire.startDaemon()
        try eventually(within: 15, "ping works again", log: daemon.process.log) {
          try wire.ping(count: 5) == 5
        }
      }
      #expect(try guest.ping(count: 20) == 20)
    }
  }
}
