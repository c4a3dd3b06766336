// How a worker waits for the next packet: by looking again and again (spinning), or asleep.
//
// Spinning costs the CPU that it spins on.  Sleeping costs a kick or an interrupt on the sender's
// side, a system call on ours, and the time to be woken, which is tens of microseconds.  So a pause
// is worth spinning through if it will be short, and nobody knows how long it will be but from the
// pauses before it: a worker keeps the share of those that ended within the budget, and how long
// such ones lasted.  It spins while most did, for a few times the usual length, and not at all
// otherwise.  One long pause therefore changes little, and a slow trickle soon costs nothing.
//
// Tempting and wrong: the mean of all pauses.  One second of silence outweighs a thousand packets.
//
// A pause that was slept through is longer by the wake-up, so that two sides that sleep would keep
// each other asleep, although either would find the next packet soon if both spun.  Hence one pause
// in `probeInterval` is spun through to see, where pauses are not hopelessly long.
//
// Large packets, which leave uncut, are another matter: a wake-up for each costs less for a byte than
// spinning to the next one does, and the sender has sent so much ahead that nobody waits for it.

/// `--poll`: when a worker sleeps.
public enum PollMode: String, CaseIterable, Sendable {
  /// When the next packet is not likely to come soon.
  case adaptive
  /// Never, while a guest has rings.
  case busy
  /// As soon as there is nothing to do.
  case sleep
}

public struct Polling: Sendable {
  public var mode: PollMode
  /// Most time that an adaptive worker spins without work, in microseconds.
  public var budget: Int

  public static let defaultBudget = 50
  public static let budgets = 1...10_000

  public init(mode: PollMode = .adaptive, budget: Int = Polling.defaultBudget) {
    self.mode = mode
    self.budget = budget
  }
}

/// Decides after each turn of a worker whether it takes the next one or sleeps.
package struct WaitPolicy {
  /// The clock is read once in so many turns without work.
  package static let clockTurns: UInt32 = 16
  /// A worker that gave up spinning tries it again after so many pauses.
  package static let probeInterval = 32
  /// A pause of more than so many budgets tells nothing about spinning.
  private static let hopeless: UInt64 = 16
  /// A spin lasts so many times the usual pause,
  private static let patience: UInt64 = 4
  /// but at least this, in nanoseconds: about what a sleep costs.
  private static let shortest: UInt64 = 10_000
  /// So many times that work was found without a large packet end their time.
  private static let bulkTurns: UInt32 = 32
  /// `shortPauses` if all pauses are short.
  private static let all = 256

  /// For how long it looked for packets in vain, in nanoseconds; sleep is not counted.
  package private(set) var idleTime: UInt64 = 0

  private let mode: PollMode
  /// In nanoseconds.
  private let budget: UInt64
  /// Turns without work since the last one with work.
  private var idleTurns: UInt32 = 0
  /// When the first of them ended.
  private var idleSince: UInt64 = 0
  /// When the clock was last read in this pause.
  private var lookedAt: UInt64 = 0
  /// Moving average of the time of `clockTurns` turns without work.
  private var usualLook: UInt64 = 0
  /// How long this pause is spun through.
  private var limit: UInt64 = 0
  /// The worker has slept in this pause: what woke it was no packet.
  private var hasSlept = false
  /// Moving average, of `all`: how many pauses end within the budget.
  private var shortPauses = WaitPolicy.all
  /// Moving average of the length of those.
  private var usualPause: UInt64
  /// Pauses since the last probe that were too long, not counting hopeless ones.
  private var sinceProbe = 0
  /// Turns with work since one that sent large packets.
  private var sinceBulk = WaitPolicy.bulkTurns

  package init(_ polling: Polling) {
    mode = polling.mode
    budget = UInt64(max(polling.budget, 1)) &* 1000
    usualPause = budget
  }

  /// To be told of every turn.
  /// - Parameters:
  ///   - moved: whether it moved anything.
  ///   - isBulk: whether large packets were among that.
  ///   - now: nanoseconds; read only when it is needed, never while packets come.
  /// - Returns: whether the worker shall sleep now.
  @inline(__always)
  package mutating func sleeps(
    moved: Bool, isBulk: Bool = false, now: @autoclosure () -> UInt64
  ) -> Bool {
    if mode == .sleep { return !moved }
    if moved {
      sinceBulk = isBulk ? 0 : min(sinceBulk &+ 1, WaitPolicy.bulkTurns)
      if idleTurns > 0 { end(now()) }
      return false
    }
    idleTurns &+= 1
    if idleTurns == 1 {
      limit = mode == .adaptive ? spinTime() : .max
      idleSince = now()
      lookedAt = idleSince
      hasSlept = limit == 0
    } else if !hasSlept && idleTurns % WaitPolicy.clockTurns == 0 {
      look(now())
    }
    return hasSlept
  }

  /// The worker sleeps, whatever this would say: such a pause tells nothing about those of packets.
  package mutating func rest() { idleTurns = 0 }

  /// After `clockTurns` more turns without work.
  private mutating func look(_ now: UInt64) {
    let passed = now &- lookedAt
    lookedAt = now
    idleTime &+= passed
    // Longer ones were interrupted.
    let usual = usualLook == 0 ? passed : min(passed, 2 &* usualLook)
    usualLook = usualLook == 0 ? usual : (usualLook &* 7 &+ usual) / 8
    if mode == .adaptive { hasSlept = now &- idleSince >= limit }
  }

  /// The turn before `now` had work.
  private mutating func end(_ now: UInt64) {
    // That turn is no idle one, and when it began nobody knows.
    if !hasSlept {
      idleTime &+=
        UInt64(idleTurns % WaitPolicy.clockTurns) &* usualLook
        / UInt64(WaitPolicy.clockTurns)
    }
    idleTurns = 0
    if mode == .adaptive { learn(now &- idleSince) }
  }

  /// How long the pause that begins is spun through.
  private mutating func spinTime() -> UInt64 {
    if sinceBulk < WaitPolicy.bulkTurns { return 0 }
    if 2 &* shortPauses >= WaitPolicy.all {
      return min(budget, max(WaitPolicy.patience &* usualPause, WaitPolicy.shortest))
    }
    guard sinceProbe >= WaitPolicy.probeInterval else { return 0 }
    sinceProbe = 0
    return budget
  }

  private mutating func learn(_ pause: UInt64) {
    if pause <= budget {
      // A probe that succeeds is followed up.
      if !hasSlept { shortPauses = max(shortPauses, WaitPolicy.all / 2) }
      shortPauses &+= (WaitPolicy.all &- shortPauses &+ 7) / 8
      usualPause = (usualPause &* 7 &+ pause) / 8
    } else {
      shortPauses &-= (shortPauses &+ 7) / 8
      if pause <= WaitPolicy.hopeless &* budget { sinceProbe &+= 1 }
    }
  }
}
