// The counters that SIGUSR1 prints add up, and are what the driver and the kernel saw: a flood of good
// and bad packets both ways.
import Glibc
import Testing

extension SystemTests {
  @Suite("the counters add up")
  struct Accounting {
    @Test("under a flood of good and bad packets, at any moment, and by the kernel's counters")
    func flood() throws {
      let wire = try Wire()
      let daemon = try wire.startDaemon("--bulk-lane=off")
      let (arrivals, before) = (try wire.arrivals(), try wire.settled(.far, "tx_packets"))
      let driver = try wire.start(
        ["python3", Wire.root + "/Tests/System/lab/mixture.py", wire.socket], in: .far,
        name: "mixture")
      try driver.waitFor("connected")
      // Nobody hears: frames are shed, and the kernel drops.
      for _ in 0..<3 {
        try wire.send(count: 3000, size: 200, perSecond: 30000)
        try daemon.checkAccounts()
      }
      try driver.type("hear")
      for _ in 0..<3 {
        try wire.send(count: 1000, size: 200, perSecond: 5000)
        try daemon.checkAccounts()
      }
      try driver.type("stop")
      let totals = try driver.waitFor("totals")
      let came = try wire.settled(.far, "tx_packets", atLeast: before + 12000) - before
      let counters = try daemon.checkAccounts()

      func total(_ name: String) -> Int {
        let words = totals.split { "{}:, \"\n".contains($0) }
        return words.firstIndex { $0 == name }.flatMap { Int(words[$0 + 1]) } ?? -1
      }
      for reason in [
        "malformed_chain", "too_short", "too_long", "bad_header", "bad_offload",
        "too_many_segments",
      ] {
        #expect(total(reason) > 10)
        #expect(counters["transmit", ["dropped_" + reason]] == total(reason), "\(reason)")
      }
      #expect(counters["transmit", ["packets"]] == total("good") + total("cut"))
      #expect(counters["transmit", ["cut"]] == total("cut"))
      #expect(counters["receive", ["packets"]] == total("received"))
      #expect(counters["receive", ["packets", "dropped_no_guest_buffers"]] > 3000)

      let sent = try arrivals.count(of: total("segments"))
      #expect(sent == total("segments"))
      #expect(
        counters["queue", ["tx_packets"]]
          - counters["queue", ["tx_waiting", "device_refused", "tx_invalid_descs"]]
          == sent - (try arrivals.lost()))
      #expect(came == 12000)
      #expect(
        counters["queue", ["rx_packets", "rx_waiting", "rx_dropped", "rx_ring_full"]] == came)
    }
  }
}

/// What SIGUSR1 has printed.
private struct Counters {
  let all: [(line: String, name: String, value: Int)]

  /// The sum of some counters over the lines with `label`.
  subscript(_ label: String, _ names: [String]) -> Int {
    all.filter { $0.line.contains(" \(label) ") && names.contains($0.name) }
      .reduce(0) { $0 + $1.value }
  }

  /// The same of counters whose names begin so.
  func sum(_ label: String, prefix: String) -> Int {
    all.filter { $0.line.contains(" \(label) ") && $0.name.hasPrefix(prefix) }
      .reduce(0) { $0 + $1.value }
  }
}

extension Daemon {
  /// The equations of docs/diagnosis.md, for one queue pair on an interface.
  @discardableResult
  fileprivate func checkAccounts() throws -> Counters {
    let counters = Counters(all: try counters())
    let delivered =
      counters["receive", ["packets", "merged_segments"]] - counters["receive", ["merged"]]
    #expect(
      counters["queue", ["rx_packets"]]
        == delivered + counters["receive", ["waiting"]]
        + counters.sum("receive", prefix: "dropped_")
        + counters["queue", ["rx_too_long", "rx_stray"]], "\(process.output)")
    #expect(
      counters["transmit", ["chains"]]
        == counters["transmit", ["packets"]] + counters.sum("transmit", prefix: "dropped_"),
      "\(process.output)")
    #expect(
      counters["transmit", ["packets", "segments"]] - counters["transmit", ["cut"]]
        == counters["queue", ["tx_packets", "link_down", "invalid_frames"]], "\(process.output)")
    return counters
  }
}
