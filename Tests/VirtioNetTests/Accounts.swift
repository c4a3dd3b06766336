// The counters as an operator reads them, and whether they add up: docs/diagnosis.md, "How the
// counters add up".

struct Accounts: CustomStringConvertible {
  let description: String
  /// Names and values of each line, by its label.
  private let lines: [(label: Substring, values: [(name: Substring, value: Int)])]

  init(_ report: String) {
    description = report
    lines = report.split(separator: "\n").compactMap { line in
      // A port's name may end with a colon.
      guard let end = line.ranges(of: ": ").last else { return nil }
      let values = line[end.upperBound...].split(separator: ",").compactMap { part in
        let words = part.split(separator: " ")
        return words.count == 2 ? Int(words[1]).map { (words[0], $0) } : nil
      }
      return (line[..<end.lowerBound], values)
    }
  }

  /// The sum of all counters in lines that begin so, whose name does.
  private func sum(_ label: String, _ isWanted: (Substring) -> Bool) -> Int {
    lines.filter { $0.label.hasPrefix(label) }
      .reduce(0) { $0 + $1.values.filter { isWanted($0.name) }.reduce(0) { $0 + $1.value } }
  }

  /// The sum of some counters over all lines that begin so.
  func sum(_ label: String, _ names: String...) -> Int {
    sum(label) { names.contains(String($0)) }
  }

  /// Packets that came for the guest, as the network knows them.
  var delivered: Int {
    sum("receive", "packets") - sum("receive", "merged") + sum("receive", "merged_segments")
  }

  /// Frames that were given to ports.
  var given: Int {
    sum("transmit", "packets") - sum("transmit", "cut") + sum("transmit", "segments")
      + sum("worker", "announcements")
  }

  /// The equation that does not hold, in words; nil: all do.
  var complaint: String? {
    let dropsOfReceive = [
      "dropped_no_guest", "dropped_no_guest_buffers", "dropped_filtered",
      "dropped_too_long_for_guest",
    ]
    let received = sum("", "rx_packets")
    let lost = sum("") { dropsOfReceive.contains(String($0)) } + sum("", "rx_too_long", "rx_stray")
    let waiting = sum("", "waiting")
    if received != delivered + lost + waiting {
      return "\(received) received are not \(delivered) delivered, \(lost) lost, \(waiting) waiting"
    }
    let chains = sum("transmit", "chains")
    let packets = sum("transmit", "packets")
    let dropped = sum("transmit") { $0.hasPrefix("dropped_") }
    if chains != packets + dropped {
      return "\(chains) chains are not \(packets) packets, \(dropped) dropped"
    }
    let taken = sum(
      "", "tx_packets", "bulk_packets", "bulk_frames", "bulk_waiting", "link_down",
      "invalid_frames", "reflected_frames", "dropped_frames")
    return given == taken ? nil : "\(given) packets were given to ports, which took \(taken)"
  }
}
