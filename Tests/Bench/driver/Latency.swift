// `bench-driver latency`: one frame at a time, there and back.
//
// The driver polls, so nothing of its own is woken; what is measured begins before the frame is
// made visible and ends when the receive ring shows that one came back.  A kick that the device
// asked for is part of it: it is the guest that pays for it.
import ArgumentParser
import GuestDriver

struct LatencyCommand: ParsableCommand {
  static let configuration = CommandConfiguration(
    commandName: "latency",
    abstract: "Sends one frame at a time to a back-end that reflects them; the round trips' times.",
    discussion: """
      Prints one JSON object: samples, min_ns, p50_ns, p90_ns, p99_ns, p999_ns, max_ns, lost (did \
      not come back within 200 ms), kicks.
      """)

  @OptionGroup var device: DeviceOptions

  @Option(help: "Microseconds between the end of a round trip and the next one; waited for busily.")
  var gapUs = 0.0

  @Flag(help: "Each gap is drawn anew, from 0 to twice --gap-us.")
  var randomGap = false

  func validate() throws {
    guard gapUs >= 0, gapUs <= 1e6 else {
      throw ValidationError("--gap-us takes 0 to 1000000 microseconds")
    }
    guard device.queues == 1 else {
      throw ValidationError("latency uses one queue pair: leave out --queues")
    }
  }

  func run() throws {
    try device.backEnd.pin()
    if device.backEnd.packed {
      try measure(PackedPollingRing.self)
    } else {
      try measure(SplitPollingRing.self)
    }
  }

  private func measure<Ring: PollingRing & ~Copyable>(_: Ring.Type) throws {
    let guest = try Guest<Ring>(device)
    var course = LatencyCourse(guest.pairs[0], gap: UInt64(gapUs * 1000), isRandom: randomGap)
    try course.awaitFirst(seconds: device.backEnd.connectTimeout)
    // Every buffer is used once, and whatever adapts to the spacing has seen it.
    course.run(nanoseconds: 100_000_000, atLeast: 2048, gap: 0)
    course.run(nanoseconds: 100_000_000)
    course.reset()
    course.run(nanoseconds: UInt64(device.seconds * 1e9))
    guest.stop()
    print(try course.report())
  }
}

/// Round trips through one queue pair.
struct LatencyCourse<Ring: PollingRing & ~Copyable>: ~Copyable {
  private let pair: QueuePair<Ring>
  private let gap: UInt64
  private let isRandom: Bool
  /// How long a frame may take, in nanoseconds.
  private let patience: UInt64
  private var generator = SeededGenerator(seed: 1)
  private var number: UInt64 = 0
  private var times = RoundTrips()
  private var lost = 0
  private var kicksBefore = 0

  init(
    _ pair: QueuePair<Ring>, gap: UInt64, isRandom: Bool, patience: UInt64 = 200_000_000
  ) {
    self.pair = pair
    self.patience = patience
    self.gap = gap
    self.isRandom = isRandom
  }

  /// Sends until a frame comes back: a back-end begins some time after it was given its rings.
  mutating func awaitFirst(seconds: Double) throws {
    let end = now() + UInt64(seconds * 1e9)
    repeat {
      if roundTrip() != nil { return }
    } while now() < end
    throw BenchError(
      "no frame came back within \(seconds) s: the back-end must reflect them (this project's "
        + "--interface=reflect:, or testpmd's --forward-mode=io --port-topology=loop)")
  }

  /// Forgets what was measured so far.
  mutating func reset() {
    times = RoundTrips()
    lost = 0
    kicksBefore = pair.kicks
  }

  mutating func run(nanoseconds: UInt64, atLeast: Int = 0, gap: UInt64? = nil) {
    let begin = now()
    var rounds = 0
    while true {
      if let time = roundTrip() { times.record(time) } else { lost += 1 }
      rounds += 1
      let end = now()
      if rounds >= atLeast && end &- begin >= nanoseconds { return }
      let gap = gap ?? self.gap
      if gap > 0 {
        let pause = isRandom ? generator.next() % (2 &* gap) : gap
        while now() &- end < pause {}
      }
    }
  }

  /// Nil: the frame did not come back in time.
  @inline(__always)
  private mutating func roundTrip() -> UInt64? {
    // All that was sent came back, but perhaps the chains did not.
    while pair.transmit.free == 0 { if pair.reap() > 0 { break } }
    number &+= 1
    pair.prepare(number)
    let begin = now()
    pair.send()
    while true {
      var length = -1
      for _ in 0..<1024 {
        length = pair.receive.used()
        if length >= 0 { break }
      }
      let end = now()
      if length < 0 {
        if end &- begin > patience { return nil }
        continue
      }
      let received = pair.read(length)
      pair.replenish()
      _ = pair.reap()
      // Others are late ones, which were counted as lost.
      if received == number { return end &- begin }
    }
  }

  mutating func report() throws -> String {
    guard times.count > 0 else {
      throw BenchError("all \(lost) frames were lost: does the back-end still run?")
    }
    let kicks = pair.kicks - kicksBefore
    return """
      {"samples": \(times.count), "min_ns": \(times.quantile(thousandths: 0)), \
      "p50_ns": \(times.quantile(thousandths: 500)), "p90_ns": \(times.quantile(thousandths: 900)), \
      "p99_ns": \(times.quantile(thousandths: 990)), "p999_ns": \(times.quantile(thousandths: 999)), \
      "max_ns": \(times.quantile(thousandths: 1000)), "lost": \(lost), "kicks": \(kicks)}
      """
  }
}
