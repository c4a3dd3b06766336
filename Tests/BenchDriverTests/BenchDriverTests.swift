import ArgumentParser
import Testing

@testable import bench_driver

@Suite("The benchmark's driver")
struct BenchDriverTests {
  /// Seconds that a back-end is waited for which does not get a CPU.
  private static let patience = 60.0

  private func options(_ arguments: [String]) throws -> DeviceOptions {
    try DeviceOptions.parse(arguments)
  }

  /// Round trips as `latency` makes them, and the report.
  private func course<Ring: PollingRing & ~Copyable>(
    _: Ring.Type, _ options: DeviceOptions, gap: UInt64 = 0
  ) throws -> String {
    let guest = try Guest<Ring>(options)
    var course = LatencyCourse(
      guest.pairs[0], gap: gap, isRandom: true, patience: UInt64(Self.patience * 1e9))
    try course.awaitFirst(seconds: Self.patience)
    course.reset()
    // More than there are buffers, and than the ring's indices have laps.
    course.run(nanoseconds: 0, atLeast: 3000)
    guest.stop()
    return try course.report()
  }

  @Test(
    "every frame comes back, over either ring, with kicks by event and by flag",
    arguments: [
      [], ["--no-event-idx"], ["--packed"], ["--packed", "--no-event-idx"],
      ["--size=9014"], ["--packed", "--size=1514", "--queue-size=4"], ["--regions=8"],
      ["--regions=509"], ["--packed", "--regions=100", "--queue-size=1024"],
    ])
  func roundTrips(arguments: [String]) throws {
    let backEnd = try BackEndThread("round-trips\(arguments.joined())")
    let options = try options(["--socket=\(backEnd.path)"] + arguments)
    let report =
      options.backEnd.packed
      ? try course(PackedPollingRing.self, options) : try course(SplitPollingRing.self, options)
    #expect(report.contains(#""samples": 3000, "#), "\(report)")
    #expect(report.contains(#""lost": 0, "#), "\(report)")
    backEnd.join()
  }

  @Test("a back-end that sleeps between frames is kicked for them")
  func gaps() throws {
    let backEnd = try BackEndThread("gaps")
    let guest = try Guest<SplitPollingRing>(try options(["--socket=\(backEnd.path)"]))
    var course = LatencyCourse(
      guest.pairs[0], gap: 5_000_000, isRandom: false, patience: UInt64(Self.patience * 1e9))
    try course.awaitFirst(seconds: Self.patience)
    course.reset()
    let before = guest.pairs[0].kicks
    // One that has no CPU in a gap does not fall asleep in it.
    var rounds = 0
    while rounds < 100, rounds == 0 || guest.pairs[0].kicks < before + 20 {
      course.run(nanoseconds: 0, atLeast: 20)
      rounds += 1
    }
    guest.stop()
    #expect(try course.report().contains("\"samples\": \(20 * rounds), "))
    #expect(guest.pairs[0].kicks >= before + 20)
  }

  @Test("a flood fills the rings of every queue pair again and again", arguments: [1, 2])
  func flood(queues: Int) throws {
    let backEnd = try BackEndThread("flood\(queues)", pairs: queues)
    let guest = try Guest<PackedPollingRing>(
      try options(["--socket=\(backEnd.path)", "--packed", "--queues=\(queues)"]))
    var flood = Flood(guest.pairs)
    try flood.awaitFirst(seconds: Self.patience)
    var result = Flood<PackedPollingRing>.Result()
    // Either side may have no CPU for a while.
    for _ in 0..<100 where result.packets <= 256 * queues || result.full == result.looks {
      result = flood.run(nanoseconds: 200_000_000)
    }
    #expect(result.packets > 256 * queues && result.full < result.looks)
    guest.stop()
  }

  @Test(
    "rings stop and start where they were, under traffic, by either request", arguments: [1, 2],
    [[], ["--packed"], ["--no-event-idx", "--queue-size=8"]])
  func churn(queues: Int, arguments: [String]) throws {
    let backEnd = try BackEndThread("churn\(queues)\(arguments.joined())", pairs: queues)
    let command = try ChurnCommand.parse(
      ["--socket=\(backEnd.path)", "--queues=\(queues)", "--restarts=80"]
        + ["--connect-timeout=\(Self.patience)"] + arguments)
    let counts =
      command.device.backEnd.packed
      ? try command.course(PackedPollingRing.self) : try command.course(SplitPollingRing.self)
    backEnd.join()
    #expect(counts.connections == 1 && counts.restarts == 80)
    #expect(counts.sent > 80 && counts.cameBack > 0 && counts.cameBack <= counts.sent)
    #expect(counts.received == 0 && counts.unknown == 0)
  }

  @Test("nobody at the socket is told with the socket and the remedy")
  func nobody() throws {
    let error = #expect(throws: BenchError.self) {
      try Guest<SplitPollingRing>(
        try options(["--socket=/tmp/bench-driver-test.nobody", "--connect-timeout=0.02"]))
    }
    #expect(error?.description.contains("nobody listens at /tmp/bench-driver-test.nobody") == true)
    #expect(error?.description.contains("--connect-timeout") == true)
  }

  @Test(
    "a value that cannot be is refused with those that can",
    arguments: [
      ("--size=59", "60 to 9014"), ("--size=9015", "60 to 9014"), ("--regions=510", "1 to 509"),
      ("--regions=0", "1 to 509"), ("--queue-size=100", "a power of two"),
      ("--queue-size=1", "a power of two"), ("--seconds=0", "up to 3600"),
      ("--queues=129", "1 to 128"), ("--cpu=99999", "take one of"),
      ("--connect-timeout=-1", "up to 3600"),
    ])
  func refusals(argument: String, remedy: String) {
    #expect { try options(["--socket=s", argument]) } throws: {
      DeviceOptions.message(for: $0).contains(remedy)
    }
    #expect { try LatencyCommand.parse(["--socket=s", "--gap-us=-1"]) } throws: {
      LatencyCommand.message(for: $0).contains("0 to 1000000")
    }
    #expect { try LatencyCommand.parse(["--socket=s", "--queues=2"]) } throws: {
      LatencyCommand.message(for: $0).contains("one queue pair")
    }
  }

  @Test("quantiles are recorded times, short ones and long ones")
  func quantiles() {
    var times = RoundTrips()
    for i in (1...1000).reversed() { times.record(UInt64(i) * 100) }
    #expect(times.count == 1000)
    #expect(times.quantile(thousandths: 0) == 100)
    #expect(times.quantile(thousandths: 500) == 50_000)
    #expect(times.quantile(thousandths: 655) == 65_500)
    #expect(times.quantile(thousandths: 656) == 65_600)
    #expect(times.quantile(thousandths: 990) == 99_000)
    #expect(times.quantile(thousandths: 1000) == 100_000)
    times.record(7)
    #expect(times.quantile(thousandths: 0) == 7)
  }
}
