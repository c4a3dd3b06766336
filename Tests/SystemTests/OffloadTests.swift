import Testing

extension SystemTests {
  @Suite(
    "a Linux guest leaves checksums and segments to the device",
    .enabled(if: Guest.isFetched, Guest.missing))
  struct Offloads {
    /// A property of QEMU's device, options of the daemon, and the feature bits that are left.
    struct Variant: CustomTestStringConvertible {
      var property = ""
      var option: String?
      /// Off: the daemon cuts. Packet: the kernel does, since nic0 can not.
      var lane = "off"
      var features: Set<Int>
      var testDescription: String { property + (option ?? "") + " bulk lane \(lane)" }

      static let csum = 0
      static let tso4 = 11
      static let tso6 = 12
      static let ecn = 13
      // QEMU 10.0 keeps HOST_USO from the guests of a vhost-user device.
      static let every: Set<Int> = [csum, tso4, tso6, ecn]

      static let all = [
        Variant(features: every),
        Variant(property: ",packed=on,mrg_rxbuf=off", features: every),
        Variant(option: "--disable-offload=csum", features: []),
        Variant(option: "--disable-offload=tso", features: [csum]),
        Variant(property: ",host_tso4=off", features: every.subtracting([tso4])),
        Variant(lane: "packet", features: every),
      ]
    }

    /// For the far end's shell: `flow OPTION...` has the guest's iperf3 move 6 MB. The server ends its part
    /// of the flow before a little later, and is busy until then.
    static let flow = """
      flow() {
        local said try
        for try in {1..20}; do
          said=$(guest_run -t 180 "iperf3 --client $* --bytes 6M >/dev/null; echo ended \\$?")
          [[ $said == *busy* ]] || break
          sleep 1
        done
        echo "$said"
      }
      """

    @Test(
      "what leaves has right checksums and fits the wire, and bytes stay what they are",
      arguments: Variant.all)
    func traffic(variant: Variant) throws {
      let wire = try Wire()
      if variant.lane == "packet" { try wire.shell("netns_near ethtool -K nic0 tx off") }
      let daemon = try wire.startDaemon(
        "--bulk-lane=\(variant.lane)", variant.option ?? "--log-level=info")
      let guest = try Guest(on: wire, device: variant.property)
      try guest.waitUntilUp()
      for bit in Variant.every {
        #expect(try guest.hasFeature(bit) == variant.features.contains(bit), "feature \(bit)")
      }
      // The far end looks at every checksum itself.
      try wire.shell(
        """
        netns_far ethtool -K peer0 rx off gro off >/dev/null
        netns_far sysctl -qw net.ipv6.conf.peer0.disable_ipv6=0
        netns_far ip -6 address add $LAB_FAR_ADDRESS6/$LAB_PREFIX6 dev peer0 nodad
        """)

      let sniffed = try wire.shell(
        """
        \(Guest.server)
        \(Offloads.flow)
        # ip replaces itself by the command, which is what is ended then: not a shell that waits for it.
        ip netns exec "$NETNS_FAR" tcpdump -i peer0 -Q in -s 0 -B 65536 -U -w $LAB_DIR/wire.pcap \
          2>$LAB_DIR/tcpdump.log &
        tcpdump=$!
        until grep -q listening $LAB_DIR/tcpdump.log; do sleep 0.1; done
        netns_far iperf3 --server --daemon --pidfile $LAB_DIR/iperf.pid
        listens 5201
        for flow in "10.77.0.1" "fd77::1" "10.77.0.1 --bidir" "fd77::1 --bidir" \\
          "10.77.0.1 --udp --bitrate 50M --length 1400" \\
          "fd77::1 --udp --bitrate 50M --length 8000" \\
          "10.77.0.1 --udp --bidir --bitrate 20M --length 1400"; do
          flow $flow
        done
        kill "$(tr -d '\\0' <$LAB_DIR/iperf.pid)" || true
        sleep 0.3
        kill $tcpdump
        wait $tcpdump || true
        tshark -r $LAB_DIR/wire.pcap -o ip.check_checksum:TRUE -o tcp.check_checksum:TRUE \\
          -o udp.check_checksum:TRUE -T fields -E separator=, -e frame.len -e ip.checksum.status \\
          -e tcp.checksum.status -e udp.checksum.status -e frame.number -e frame.protocols \\
          2>$LAB_DIR/tshark.log | awk -F, '
            # 0 is wrong, 1 right.
            { frames++ }
            $1 > 1514 { long++ }
            $2 == "0" || $3 == "0" || $4 == "0" { wrong++; print }
            $3 == "1" || $4 == "1" { right++ }
            END { printf "frames %d\\nright %d\\nwrong %d\\nlong %d\\n", frames, right, wrong, long }'
        echo errors $(netns_far nstat -az TcpInCsumErrors UdpInCsumErrors Udp6InCsumErrors |
          awk '/Csum/ { sum += $2 } END { print sum }')
        """, within: 900)
      let lines = sniffed.split(separator: "\n").map(String.init)
      func number(_ name: String) -> Int {
        lines.first { $0.hasPrefix(name + " ") }.flatMap { Int($0.dropFirst(name.count + 1)) } ?? -1
      }
      #expect(lines.filter { $0 == "ended 0" }.count == 7, "\(sniffed)")
      #expect(number("wrong") == 0 && number("long") == 0, "\(sniffed)")
      #expect(number("errors") == 0, "\(sniffed)")
      #expect(number("frames") > 10_000, "\(sniffed)")
      // Fragments have their checksum in the first one or none.
      #expect(number("right") > number("frames") / 2, "\(sniffed)")

      let sums = try guest.copyFile(megabytes: 32)
      #expect(sums.count == 3)
      #expect(Set(sums).count == 1)
      if variant.lane == "packet" {
        let packets = try daemon.counter("bulk_packets")
        #expect(packets > 200, "\(packets) packets")
      } else {
        let segments = try daemon.counter("segments")
        #expect((segments > 1000) == variant.features.contains(Variant.tso6), "\(segments)")
      }
      #expect(try daemon.counter("dropped_bad_offload") == 0)
      #expect(try daemon.counter("dropped_bad_header") == 0)
    }

    /// As above, of what the guest receives.
    struct ReceiveVariant: CustomTestStringConvertible {
      var property = ""
      var option: String?
      var features: Set<Int>
      /// Of these IP versions TCP segments are merged.
      var merged: Set<Int>
      var testDescription: String { property + (option ?? "") }

      static let csum = 1
      static let every: Set<Int> = [csum, 7, 8, 9]

      static let all = [
        ReceiveVariant(features: every, merged: [4, 6]),
        ReceiveVariant(property: ",packed=on", features: every, merged: [4, 6]),
        ReceiveVariant(property: ",mrg_rxbuf=off", features: every, merged: [4, 6]),
        ReceiveVariant(option: "--disable-offload=gro", features: [csum], merged: []),
        ReceiveVariant(option: "--disable-offload=rxcsum", features: [], merged: []),
        ReceiveVariant(
          property: ",guest_tso4=off,guest_ecn=off", features: [csum, 8], merged: [6]),
      ]
    }

    @Test(
      "segments are merged for the guest if it takes that, and bytes stay what they are",
      arguments: ReceiveVariant.all)
    func receive(variant: ReceiveVariant) throws {
      let wire = try Wire()
      let daemon = try variant.option.map { try wire.startDaemon($0) } ?? wire.startDaemon()
      let guest = try Guest(on: wire, device: variant.property)
      try guest.waitUntilUp()
      for bit in ReceiveVariant.every {
        #expect(try guest.hasFeature(bit) == variant.features.contains(bit), "feature \(bit)")
      }
      try wire.shell(
        """
        netns_far sysctl -qw net.ipv6.conf.peer0.disable_ipv6=0
        netns_far ip -6 address add $LAB_FAR_ADDRESS6/$LAB_PREFIX6 dev peer0 nodad
        """)
      // The guest's own stack shall not merge what the device has not.
      try guest.run("ethtool -K eth0 gro off || true")
      for (version, address) in [(4, "10.77.0.1"), (6, "fd77::1")] {
        let before = try daemon.counter("merged_segments")
        let output = try wire.shell(
          """
          \(Guest.server)
          serve
          count() { guest_run 'cat /sys/class/net/eth0/statistics/rx_'"$1"; }
          packets=$(count packets) bytes=$(count bytes)
          guest_run -t 180 "iperf3 --client \(address) --reverse --bytes 24M >/dev/null; echo ended \\$?"
          echo mean $((($(count bytes) - bytes) / ($(count packets) - packets)))
          guest_run "awk '/^Tcp: [0-9]/ { print \\"errors\\", \\$NF }' /proc/net/snmp"
          served
          """, within: 300)
        let lines = output.split(separator: "\n").map(String.init)
        #expect(lines.contains("ended 0"), "\(output)")
        #expect(lines.contains("errors 0"), "\(output)")
        let mean = lines.first { $0.hasPrefix("mean ") }.flatMap { Int($0.dropFirst(5)) } ?? 0
        let segments = try daemon.counter("merged_segments") - before
        if variant.merged.contains(version) {
          #expect(mean > 3000 && segments > 5000, "\(mean) bytes a packet, \(segments) segments")
        } else {
          #expect(mean <= 1514 && segments == 0, "\(mean) bytes a packet, \(segments) segments")
        }
      }
      let sums = try guest.copyFile(megabytes: 32)
      #expect(sums.count == 3)
      #expect(Set(sums).count == 1)
    }

    @Test("256 MiB are the same there and back", arguments: ["auto", "off"])
    func largeFile(lane: String) throws {
      let wire = try Wire()
      let daemon = try wire.startDaemon("--bulk-lane=\(lane)")
      let guest = try Guest(on: wire, megabytes: 768)
      try guest.waitUntilUp()
      let sums = try guest.copyFile(megabytes: 256, within: 400)
      #expect(sums.count == 3 && Set(sums).count == 1)
      // Large packets of the guest, and made for it.
      if lane == "auto" {
        let packets = try daemon.counter("bulk_packets")
        #expect(packets > 2000, "\(packets)")
      } else {
        let segments = try daemon.counter("segments")
        #expect(segments > 100_000, "\(segments)")
      }
      let merged = try daemon.counter("merged_segments")
      #expect(merged > 100_000, "\(merged)")
    }

    @Test("by the bulk lane packets reach a host over a veth uncut, and bytes stay what they are")
    func bulkLane() throws {
      let wire = try Wire()
      let daemon = try wire.startDaemon()
      let guest = try Guest(on: wire)
      try guest.waitUntilUp()
      let ended = try wire.shell(
        """
        \(Guest.server)
        \(Offloads.flow)
        netns_far sysctl -qw net.ipv6.conf.peer0.disable_ipv6=0
        netns_far ip -6 address add $LAB_FAR_ADDRESS6/$LAB_PREFIX6 dev peer0 nodad
        netns_far iperf3 --server --daemon --pidfile $LAB_DIR/iperf.pid
        listens 5201
        for flow in "10.77.0.1" "fd77::1" "10.77.0.1 --parallel 3" "10.77.0.1 --bidir" \
          "10.77.0.1 --udp --bitrate 50M --length 1400" \
          "fd77::1 --udp --bitrate 50M --length 8000"; do
          flow $flow
        done
        kill "$(tr -d '\\0' <$LAB_DIR/iperf.pid)" || true
        echo errors $(netns_far nstat -az TcpInCsumErrors UdpInCsumErrors Udp6InCsumErrors |
          awk '/Csum/ { sum += $2 } END { print sum }')
        """, within: 900)
      let lines = ended.split(separator: "\n").map(String.init)
      #expect(lines.filter { $0 == "ended 0" }.count == 6, "\(ended)")
      #expect(lines.contains("errors 0"), "\(ended)")
      let sums = try guest.copyFile(megabytes: 32)
      #expect(sums.count == 3 && Set(sums).count == 1)
      #expect(daemon.process.output.contains("bulk lane: packet (the interface segments TCP)"))
      let packets = try daemon.counter("bulk_packets")
      #expect(packets > 300, "\(packets)")
      // Frames seldom stand in the way, over a veth.
      let busy = try daemon.counter("bulk_busy")
      #expect(busy * 10 < packets, "\(busy)")
      #expect(try daemon.counter("bulk_refused") == 0)
      #expect(try daemon.counter("device_refused") == 0)
    }
  }
}
