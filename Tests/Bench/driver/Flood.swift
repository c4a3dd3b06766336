// `bench-driver flood`: transmits as fast as the back-end takes it.
import ArgumentParser
import GuestDriver
import SharedRing

struct FloodCommand: ParsableCommand {
  static let configuration = CommandConfiguration(
    commandName: "flood",
    abstract: "Transmits as fast as it can, whole rings at a time; what the back-end took.",
    discussion: """
      Prints one JSON object: packets, seconds, packets_per_second, kicks, and full: the share of \
      looks at the rings that found them still full, near 1 where the back-end is the slower side.
      """)

  @OptionGroup var device: DeviceOptions

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
    var flood = Flood(guest.pairs)
    try flood.awaitFirst(seconds: device.backEnd.connectTimeout)
    flood.run(nanoseconds: 200_000_000)
    let kicksBefore = flood.kicks
    let result = flood.run(nanoseconds: UInt64(device.seconds * 1e9))
    let kicks = flood.kicks - kicksBefore
    guest.stop()
    let rate = Double(result.packets) / result.seconds
    print(
      """
      {"packets": \(result.packets), "seconds": \(result.seconds), \
      "packets_per_second": \(rate), "kicks": \(kicks), \
      "full": \(Double(result.full) / Double(result.looks))}
      """)
  }
}

struct Flood<Ring: PollingRing & ~Copyable> {
  struct Result {
    var packets = 0
    var looks = 0
    var full = 0
    var seconds = 0.0
  }

  private let pairs: [QueuePair<Ring>]
  private var number: UInt64 = 0

  init(_ pairs: [QueuePair<Ring>]) { self.pairs = pairs }

  var kicks: Int { pairs.reduce(0) { $0 + $1.kicks } }

  mutating func awaitFirst(seconds: Double) throws {
    let end = now() + UInt64(seconds * 1e9)
    while run(nanoseconds: 10_000_000).packets == 0 {
      guard now() < end else {
        throw BenchError("the back-end took no frame within \(seconds) s: does it still run?")
      }
    }
  }

  @discardableResult
  mutating func run(nanoseconds: UInt64) -> Result {
    var result = Result()
    let begin = now()
    while true {
      for pair in pairs {
        let packets = look(at: pair)
        result.packets &+= packets
        result.looks &+= 1
        if packets == 0 {
          result.full &+= 1
          // Looking without pause would slow the device down, which writes what is looked at.
          for _ in 0..<16 { spinPause() }
        }
      }
      let elapsed = now() &- begin
      if elapsed >= nanoseconds {
        result.seconds = Double(elapsed) / 1e9
        return result
      }
    }
  }

  /// Fills the ring again.  Returns how many frames had been taken from it.
  @inline(never)
  private mutating func look(at pair: QueuePair<Ring>) -> Int {
    let packets = pair.reap()
    let free = pair.transmit.free
    guard free > 0 else { return packets }
    for _ in 0..<free {
      number &+= 1
      pair.prepare(number)
    }
    pair.send()
    return packets
  }
}
