import Testing

extension SystemTests {
  @Suite("options of QEMU's device", .enabled(if: Guest.isFetched, Guest.missing))
  struct QEMUOptions {
    struct Row: CustomTestStringConvertible {
      var device = ""
      var ring = 1024
      /// Feature bits that the guest must have because of it, and must not have.
      var with: [Int] = []
      var without: [Int] = []
      var testDescription: String { "ring of \(ring)\(device)" }

      static let all = [
        Row(ring: 256),
        Row(device: ",host_mtu=1400,guest_announce=off", ring: 512, with: [3], without: [21]),
      ]
    }

    @Test("the guest gets what they say, and packets flow", arguments: Row.all)
    func row(_ row: Row) throws {
      let wire = try Wire()
      let daemon = try wire.startDaemon()
      let guest = try Guest(on: wire, device: row.device, ring: row.ring)
      try guest.waitUntilUp()
      for feature in row.with + row.without {
        let has = try guest.hasFeature(feature)
        #expect(has == row.with.contains(feature), "feature \(feature)")
      }
      #expect(
        try guest.run("ethtool -g eth0").split(separator: "\n").count {
          $0.contains("X:\t\t\(row.ring)")
        } == 4)
      if row.device.contains("host_mtu=1400") {
        #expect(try guest.run("cat /sys/class/net/eth0/mtu") == "1400\n")
      }
      #expect(try guest.ping(count: 20) == 20)
      #expect(Set(try guest.copyFile(megabytes: 8)).count == 1)
      #expect(try guest.sendPatterns().seen == .all)
      #expect(try guest.receivePatterns("skb") == .all)
      #expect(try daemon.losses() == [:])
    }
  }
}
