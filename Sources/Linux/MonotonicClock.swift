import Glibc

/// Time that only goes forward, for intervals.
public enum MonotonicClock {
  /// Milliseconds since an arbitrary start (CLOCK_MONOTONIC_COARSE: a few milliseconds exact, and
  /// cheap to read).
  public static var milliseconds: UInt64 {
    let now = read(CLOCK_MONOTONIC_COARSE)
    return UInt64(now.tv_sec) &* 1000 &+ UInt64(now.tv_nsec) / 1_000_000
  }

  /// Nanoseconds since an arbitrary start (CLOCK_MONOTONIC).
  public static var nanoseconds: UInt64 {
    let now = read(CLOCK_MONOTONIC)
    return UInt64(now.tv_sec) &* 1_000_000_000 &+ UInt64(now.tv_nsec)
  }

  private static func read(_ clock: clockid_t) -> timespec {
    var now = timespec()
    unsafe clock_gettime(clock, &now)
    return now
  }
}
