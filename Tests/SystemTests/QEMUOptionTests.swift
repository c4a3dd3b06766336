import Testing

extension SystemTests {
  @Suite("options of QEMU's device", .enabled(if: Guest.isFetched, Guest.missing))
  struct QEMUOptions {
    struct Row: CustomTestStringConvertible {
      var device = ""
      var ring = 1024
      /// The MTU that host_mtu in `device` says, and the wire has if it is a larger one.
      var mtu = 1500
      var kernel = ""
      /// Feature bits that the guest must have because of it, and must not have.
      var with: [Int] = []
      var without: [Int] = []
      var testDescription: String {
        "ring of \(ring)\(device)\(kernel.isEmpty ? "" : ", Linux \(kernel)")"
      }

      static let all = [
        Row(ring: 256),
        Row(
          device: ",host_mtu=1400,guest_announce=off", ring: 512, mtu: 1400, with: [3],
          without: [21]),
        Row(device: ",host_mtu=9000,mrg_rxbuf=off", mtu: 9000, with: [3], without: [15]),
        Row(device: ",packed=on", with: [15, 28, 29, 34]),
        Row(device: ",packed=on,event_idx=off", ring: 256, with: [15, 28, 34], without: [29]),
        Row(
          device: ",packed=on,mrg_rxbuf=off,indirect_desc=off", with: [29, 34],
          without: [15, 28]),
        Row(device: ",packed=on,host_mtu=9000", mtu: 9000, with: [3, 15, 34]),
        Row(device: ",in_order=on,packed=on", kernel: "newest", with: [34, 35]),
      ]
    }

    @Test("the guest gets what they say, and packets flow", arguments: Row.all)
    func row(_ row: Row) throws {
      let wire = try Wire(mtu: max(row.mtu, 1500))
      let daemon = try wire.startDaemon()
      let guest = try Guest(on: wire, device: row.device, ring: row.ring, kernel: row.kernel)
      try guest.waitUntilUp()
      for feature in row.with + row.without {
        let has = try guest.hasFeature(feature)
        #expect(has == row.with.contains(feature), "feature \(feature)")
      }
      #expect(
        try guest.run("ethtool -g eth0").split(separator: "\n").count {
          $0.contains("X:\t\t\(row.ring)")
        } == 4)
      #expect(try guest.run("cat /sys/class/net/eth0/mtu") == "\(row.mtu)\n")
      try expectUndivided(guest, size: row.mtu)
      #expect(try guest.ping(count: 20) == 20)
      #expect(try daemon.losses() == [:])
      #expect(Set(try guest.copyFile(megabytes: 8)).count == 1)
      #expect(try guest.sendPatterns().seen == .all)
      #expect(try guest.receivePatterns("skb", ring: row.ring) == .all)
      #expect(try daemon.faults() == [:])
    }

    /// IP packets of `size` bytes are one frame, both ways.
    private func expectUndivided(_ guest: Guest, size: Int) throws {
      let before = try guest.wire.settled(.far, "rx_packets")
      let bytesBefore = try guest.wire.counter(.far, "rx_bytes")
      #expect(try guest.ping(count: 10, size: size - 28) == 10)
      let packets = try guest.wire.settled(.far, "rx_packets") - before
      let bytes = try guest.wire.counter(.far, "rx_bytes") - bytesBefore
      // ARP and the guest's multicast groups may be among them.
      #expect((10..<20).contains(packets))
      #expect(bytes >= 10 * (size + 14))
    }
  }
}
