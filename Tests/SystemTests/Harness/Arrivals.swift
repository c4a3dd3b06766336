// What arrives at the far end of what a driver was told was transmitted: every packet, once.
//
// The kernel that plays the far end takes packets from a backlog of 1,000 for each CPU
// (net.core.netdev_max_backlog).  While its softirq waits for the CPU that may be too few; then the
// veth refuses the packet, and the kernel counts that twice: at the interface, and at the backlog.
// What both say is lost there is nobody's fault.
import Glibc
import Testing

struct Arrivals {
  private let wire: Wire
  private let packets: Int
  private let bytes: Int
  private let refused: Int
  private let overflows: Int

  fileprivate init(at wire: Wire) throws {
    self.wire = wire
    packets = try wire.settled(.far, "rx_packets")
    bytes = try wire.counter(.far, "rx_bytes")
    refused = try wire.counter(.near, "tx_dropped")
    overflows = Arrivals.overflows
  }

  /// Packets that found the backlog full, since then.
  func lost() throws -> Int {
    let refused = try wire.counter(.near, "tx_dropped") - refused
    return min(refused, Arrivals.overflows - overflows)
  }

  /// Waits for `sent` packets.
  /// - Returns: how many have come, with those that the backlog had no room for.
  func count(of sent: Int) throws -> Int {
    let expected = packets + sent - (try lost())
    return try wire.settled(.far, "rx_packets", atLeast: expected) - packets + lost()
  }

  /// Expects `sent` packets of `size` bytes each.
  func expect(
    _ sent: Int, size: Int, _ comment: String = "", location: SourceLocation = #_sourceLocation
  ) throws {
    let arrived = try count(of: sent)
    let lost = try lost()
    #expect(arrived == sent, "\(comment), with \(lost) lost", sourceLocation: location)
    let bytes = try wire.counter(.far, "rx_bytes") - bytes
    #expect(bytes == (sent - lost) * size, "\(comment)", sourceLocation: location)
  }

  /// The second column of each CPU's line.
  private static var overflows: Int {
    contents(of: "/proc/net/softnet_stat").split(separator: "\n").reduce(0) { sum, line in
      let columns = line.split(separator: " ")
      return sum + (columns.count > 1 ? Int(columns[1], radix: 16) ?? 0 : 0)
    }
  }
}

extension Wire {
  /// What arrives at the far end from now on.
  func arrivals() throws -> Arrivals { try Arrivals(at: self) }
}
