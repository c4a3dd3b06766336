// How often somebody hostile may make us write a line.
//
// A front-end can cause a warning with each message, and a guest with each reset of its device, as
// fast as they like: without a limit they fill the disk of the host.  A burst is let through, so
// that an honest mistake is seen whole, and then one line a second.
import Synchronization

public final class LogLimit: Sendable {
  /// Lines that are let through at once.
  public static let burst = 64
  /// Milliseconds after which one line more may come.
  public static let interval: UInt64 = 1000

  private struct State {
    /// The time up to which lines are paid for.
    var paidUntil: UInt64 = 0
    var omitted = 0
  }
  private let state = Mutex(State())

  public init() {}

  /// The line as it is to be written, which tells how many were left out before; nil if it must be left
  /// out too.
  public func admit(_ line: @autoclosure () -> String) -> String? {
    guard let omitted = admit() else { return nil }
    return omitted == 0 ? line() : "\(line()) (\(omitted) lines were left out before)"
  }

  /// Asks to write a line.
  /// - Parameter now: milliseconds of a clock that only goes forward.
  /// - Returns: nil if the line must be left out, else how many were since the last one that was
  ///   not.
  public func admit(now: UInt64 = MonotonicClock.milliseconds) -> Int? {
    state.withLock { state in
      let paid = max(state.paidUntil, now) + LogLimit.interval
      guard paid - now <= LogLimit.interval * UInt64(LogLimit.burst) else {
        state.omitted += 1
        return nil
      }
      state.paidUntil = paid
      defer { state.omitted = 0 }
      return state.omitted
    }
  }
}
