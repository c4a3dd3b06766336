// `bench-driver churn`: a front-end that comes and goes, or whose rings stop and start, under traffic.
//
// What is counted is exact, so that a test can compare it with what arrived: a frame whose chain came
// back was taken by the back-end once. Only of those that were under way when a front-end hung up
// nobody knows.
import ArgumentParser
import Glibc
import GuestDriver
import SharedRing

struct ChurnCommand: ParsableCommand {
  static let configuration = CommandConfiguration(
    commandName: "churn",
    abstract: "Connects and leaves, or stops and starts rings, again and again under traffic.",
    discussion: """
      A connection negotiates, starts the rings, sends until frames were taken, and leaves: every \
      second time in order, else by hanging up with full rings. A restart is one of SET_VRING_ENABLE \
      0 and 1, and GET_VRING_BASE with all that starts the ring again, of a receive or a transmit ring \
      in turn. After each one frames must be taken within --connect-timeout.

      Prints one JSON object: connections, restarts, sent: frames that the back-end took, unknown: \
      those under way when it was hung up on, came_back: received ones that were sent here, received: \
      other ones, seconds, longest_ms: the longest time from a connection or restart to the first \
      frame that was taken.
      """)

  @OptionGroup var device: DeviceOptions

  @Option(help: "How often to connect and leave.")
  var connections = 1

  @Option(help: "How often to restart a ring, in each connection.")
  var restarts = 0

  @Option(help: "Microseconds of traffic after each of them.")
  var trafficUs = 100

  func validate() throws {
    guard (1...1_000_000).contains(connections), (0...10_000_000).contains(restarts) else {
      throw ValidationError("--connections takes 1 to 1000000, --restarts 0 to 10000000")
    }
    guard (0...1_000_000).contains(trafficUs) else {
      throw ValidationError("--traffic-us takes 0 to 1000000 microseconds")
    }
  }

  func run() throws {
    try device.backEnd.pin()
    if device.backEnd.packed {
      print(try course(PackedPollingRing.self).report)
    } else {
      print(try course(SplitPollingRing.self).report)
    }
  }

  func course<Ring: PollingRing & ~Copyable>(_: Ring.Type) throws -> ChurnCounts {
    var counts = ChurnCounts()
    let begin = now()
    for number in 0..<connections {
      let start = now()
      var traffic = ChurnTraffic(
        try Guest<Ring>(device), patience: device.backEnd.connectTimeout)
      try traffic.awaitFrames(since: start)
      traffic.run(microseconds: trafficUs)
      for restart in 0..<restarts {
        try traffic.restart(restart)
        traffic.run(microseconds: trafficUs)
      }
      traffic.leave(inOrder: number % 2 == 0)
      counts += traffic.counts
      counts.connections += 1
    }
    counts.seconds = Double(now() - begin) / 1e9
    return counts
  }
}

/// What happened.
struct ChurnCounts {
  var connections = 0
  var restarts = 0
  var sent = 0
  var unknown = 0
  var cameBack = 0
  var received = 0
  var longest: UInt64 = 0
  var seconds = 0.0

  static func += (sum: inout ChurnCounts, more: ChurnCounts) {
    sum.restarts += more.restarts
    sum.sent += more.sent
    sum.unknown += more.unknown
    sum.cameBack += more.cameBack
    sum.received += more.received
    sum.longest = max(sum.longest, more.longest)
  }

  var report: String {
    """
    {"connections": \(connections), "restarts": \(restarts), "sent": \(sent), \
    "unknown": \(unknown), "came_back": \(cameBack), "received": \(received), \
    "seconds": \(seconds), "longest_ms": \(Double(longest) / 1e6)}
    """
  }
}

/// One connection with full transmit rings, and receive rings that are emptied.
private struct ChurnTraffic<Ring: PollingRing & ~Copyable> {
  private(set) var counts = ChurnCounts()
  private let guest: Guest<Ring>
  private let patience: UInt64
  private var number: UInt64 = 0

  /// - Parameter patience: seconds within which frames must be taken.
  init(_ guest: Guest<Ring>, patience: Double) {
    self.guest = guest
    self.patience = UInt64(patience * 1e9)
  }

  /// Looks at each ring once. Returns how many frames had been taken.
  private mutating func turn() -> Int {
    var taken = 0
    for pair in guest.pairs {
      taken += pair.reap()
      add(pair.takeReceived())
      let free = pair.transmit.free
      guard free > 0 else { continue }
      for _ in 0..<free {
        number &+= 1
        pair.prepare(number)
      }
      pair.send()
    }
    counts.sent += taken
    return taken
  }

  private mutating func add(_ received: QueuePair<Ring>.Received) {
    counts.cameBack += received.own
    counts.received += received.others
  }

  mutating func run(microseconds: Int) {
    let end = now() + UInt64(microseconds) * 1000
    while now() < end { if turn() == 0 { pause() } }
  }

  /// Sends until a frame was taken.
  mutating func awaitFrames(since begin: UInt64) throws {
    while turn() == 0 {
      guard now() - begin < patience else {
        throw BenchError(
          "no frame was taken within \(Double(patience) / 1e9) s of connection or restart "
            + "\(counts.restarts): does the back-end still run?")
      }
      pause()
    }
    counts.longest = max(counts.longest, now() - begin)
  }

  /// The CPU may be the one that the back-end needs.
  private func pause() {
    for _ in 0..<32 { spinPause() }
    sched_yield()
  }

  /// - Parameter which: of each four, two are of a transmit ring, and two by GET_VRING_BASE.
  mutating func restart(_ which: Int) throws {
    let begin = now()
    let transmits = which % 2 == 1
    let index = which / 4 % guest.pairs.count
    let pair = guest.pairs[index]
    let ring = 2 * index + (transmits ? 1 : 0)
    if which / 2 % 2 == 0 {
      try guest.frontEnd.enable(ring, false)
      _ = turn()
      try guest.frontEnd.enable(ring, true)
    } else {
      let (sent, received) = try pair.restart(transmits: transmits, guest.frontEnd, guest.ram)
      counts.sent += sent
      add(received)
    }
    counts.restarts += 1
    try awaitFrames(since: begin)
  }

  /// Takes the rings back, or hangs up with full rings: then nobody knows of what is in them.
  mutating func leave(inOrder: Bool) {
    if inOrder { guest.stop() }
    for pair in guest.pairs {
      counts.sent += pair.reap()
      add(pair.takeReceived())
      if !inOrder { counts.unknown += pair.underWay }
    }
  }
}
