import Glibc

/// Time that only goes forward, for intervals.
public enum MonotonicClock {
  /// Milliseconds since an arbitrary start (CLOCK_MONOTONIC_COARSE: a few milliseconds exact, and
  /// cheap to read).
  public static var milliseconds: UInt64 {
    var now = timespec()
    unsafe clock_gettime(CLOCK_MONOTONIC_COARSE, &now)
    return UInt64(now.tv_sec) &* 1000 &+ UInt64(now.tv_nsec) / 1_000_000
  }

  /// Nanoseconds since the same start (CLOCK_MONOTONIC).
  public static var nanoseconds: UInt64 {
    var now = timespec()
    unsafe clock_gettime(CLOCK_MONOTONIC, &now)
    return UInt64(now.tv_sec) &* 1_000_000_000 &+ UInt64(now.tv_nsec)
  }
}
