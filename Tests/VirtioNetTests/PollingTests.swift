// When a worker spins and when it sleeps, by a clock that only the test moves.
import Testing
import VirtioNet

private final class FakeClock {
  var now: UInt64 = 1
  var reads = 0

  func read() -> UInt64 {
    reads += 1
    return now
  }
}

/// A worker whose turns take 100 ns, and packets that come when a test says.
private struct Simulation {
  static let turn: UInt64 = 100

  private var policy: WaitPolicy
  private let clock = FakeClock()
  /// What being woken takes.
  var wakeUp: UInt64 = 0
  var spun: UInt64 = 0
  var sleeps = 0
  var turns = 0

  init(_ mode: PollMode = .adaptive, budget: Int = 50) {
    policy = WaitPolicy(Polling(mode: mode, budget: budget))
  }

  var clockReads: Int { clock.reads }
  var idleTime: UInt64 { policy.idleTime }

  mutating func sleepsAfterTurn(moved: Bool, isBulk: Bool = false) -> Bool {
    clock.now += Simulation.turn
    turns += 1
    return policy.sleeps(moved: moved, isBulk: isBulk, now: clock.read())
  }

  /// A packet comes after `pause` nanoseconds without one.
  mutating func packet(after pause: UInt64, isBulk: Bool = false) {
    let due = clock.now + pause
    while clock.now < due {
      if sleepsAfterTurn(moved: false) {
        sleeps += 1
        clock.now = max(clock.now, due + wakeUp)
      } else {
        spun += Simulation.turn
      }
    }
    let sleepsNow = sleepsAfterTurn(moved: true, isBulk: isBulk)
    #expect(!sleepsNow)
  }
}

@Suite("How a worker waits")
struct PollingTests {
  @Test("sleeping: at the first turn without work, and only then")
  func sleep() {
    var simulation = Simulation(.sleep)
    for _ in 0..<10 { simulation.packet(after: 1000) }
    #expect(simulation.sleeps == 10 && simulation.spun == 0 && simulation.clockReads == 0)
  }

  @Test("busy: never asleep")
  func busy() {
    var simulation = Simulation(.busy)
    for _ in 0..<10 { simulation.packet(after: 1_000_000) }
    #expect(simulation.sleeps == 0)
  }

  @Test("packet after packet costs no look at the clock", arguments: PollMode.allCases)
  func noClock(mode: PollMode) {
    var simulation = Simulation(mode)
    for _ in 0..<1000 { simulation.packet(after: 0) }
    #expect(simulation.clockReads == 0)
  }

  @Test("time without work is counted, sleep is not", arguments: [PollMode.adaptive, .busy])
  func idleTime(mode: PollMode) {
    var simulation = Simulation(mode)
    for _ in 0..<20 { simulation.packet(after: 10_300) }
    for _ in 0..<20 { simulation.packet(after: 3_000_000) }
    for _ in 0..<20 { simulation.packet(after: 700) }
    // The clock is not read at each turn.
    let missed = UInt64(60 + simulation.sleeps) * Simulation.turn
    #expect(simulation.idleTime <= simulation.spun + missed)
    #expect(simulation.idleTime + missed >= simulation.spun)
    #expect((simulation.sleeps > 0) == (mode == .adaptive))
  }

  @Test("packets that follow each other within the budget find the worker awake")
  func spins() {
    var simulation = Simulation()
    for i in 0..<1000 { simulation.packet(after: UInt64(5000 + 37 * (i % 100))) }
    #expect(simulation.sleeps == 0)
  }

  @Test("a slow trickle is slept through", arguments: [1_000_000, 10_000_000] as [UInt64])
  func trickle(pause: UInt64) {
    var simulation = Simulation()
    for _ in 0..<20 { simulation.packet(after: pause) }
    simulation.spun = 0
    simulation.sleeps = 0
    simulation.turns = 0
    for _ in 0..<1000 { simulation.packet(after: pause) }
    #expect(simulation.spun == 0)
    // The turn with the packet, and one that finds nothing more.
    #expect(simulation.sleeps == 1000 && simulation.turns == 2000)
  }

  @Test("pauses somewhat beyond the budget cost little more than being slept through")
  func beyond() {
    var simulation = Simulation()
    for _ in 0..<3200 { simulation.packet(after: 100_000) }
    // Of 320 ms; each probe is 50 microseconds.
    #expect(simulation.spun < 320_000_000 / 50)
  }

  @Test("the end of a flow is waited for no longer than the budget, once")
  func end() {
    var simulation = Simulation()
    for _ in 0..<100 { simulation.packet(after: 20_000) }
    simulation.spun = 0
    simulation.packet(after: 1_000_000_000)
    #expect(simulation.spun <= 52_000)
    #expect(simulation.sleeps == 1)
  }

  @Test("after a dense flow the worker does not spin for the whole budget")
  func denseEnd() {
    var simulation = Simulation(budget: 1000)
    for _ in 0..<100 { simulation.packet(after: 1000) }
    simulation.spun = 0
    simulation.packet(after: 1_000_000_000)
    #expect(simulation.spun < 20_000)
  }

  @Test("one long pause does not put a worker to sleep in the flow after it")
  func outlier() {
    var simulation = Simulation()
    for _ in 0..<10 {
      for _ in 0..<30 { simulation.packet(after: 20_000) }
      simulation.packet(after: 5_000_000_000)
    }
    #expect(simulation.sleeps == 10)
  }

  @Test("a worker that sleeps finds out that it need not, although its waking makes pauses long")
  func probes() {
    var simulation = Simulation()
    simulation.wakeUp = 60_000
    for _ in 0..<100 { simulation.packet(after: 1_000_000) }
    // Slept through, these take 90 microseconds; spun through, 30.
    for _ in 0..<100 { simulation.packet(after: 30_000) }
    simulation.sleeps = 0
    for _ in 0..<1000 { simulation.packet(after: 30_000) }
    #expect(simulation.sleeps == 0)
  }

  @Test("large packets are not spun for, small ones after them are again")
  func bulk() {
    var simulation = Simulation()
    // With what is acknowledged in between.
    for i in 0..<1000 { simulation.packet(after: 30_000, isBulk: i % 4 == 0) }
    #expect(simulation.sleeps >= 999)
    #expect(simulation.spun < 52_000)
    for _ in 0..<100 { simulation.packet(after: 30_000) }
    simulation.sleeps = 0
    for _ in 0..<1000 { simulation.packet(after: 30_000) }
    #expect(simulation.sleeps == 0)
  }

  @Test("whatever else wakes it, a worker that slept sleeps again at once")
  func wokenForNothing() {
    var simulation = Simulation()
    while !simulation.sleepsAfterTurn(moved: false) {}
    #expect(simulation.turns > 100)
    for _ in 0..<100 {
      let sleeps = simulation.sleepsAfterTurn(moved: false)
      #expect(sleeps)
    }
  }

  @Test("a spinning worker hardly looks at the clock")
  func clock() {
    var simulation = Simulation(budget: 10_000)
    for _ in 0..<100 { simulation.packet(after: 500_000) }
    #expect(simulation.clockReads <= simulation.turns / Int(WaitPolicy.clockTurns) + 2 * 101)
    // And a busy one not at all.
    let reads = simulation.clockReads
    for _ in 0..<1000 { simulation.packet(after: 0) }
    #expect(simulation.clockReads == reads)
  }
}
