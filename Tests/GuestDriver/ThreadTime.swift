// A thread's time: what something costs it on a CPU, which other load does not lengthen as it does time
// on the wall, and sleep that nothing cuts short.
import Glibc

public enum ThreadTime {
  /// Time on a CPU that `body` takes of this thread.
  public static func milliseconds<Failure: Error>(
    of body: () throws(Failure) -> Void
  ) throws(Failure) -> Double {
    let begin = now
    try body()
    return now - begin
  }

  /// At least so long: a call on a peer's event may be followed by a signal, whatever its thread does by
  /// then, and threads of the runtime run one test after the other.
  public static func sleep(milliseconds: Int) {
    var left = timespec(tv_sec: milliseconds / 1000, tv_nsec: milliseconds % 1000 * 1_000_000)
    var rest = left
    while unsafe nanosleep(&left, &rest) < 0, errno == EINTR { left = rest }
  }

  private static var now: Double {
    var time = timespec()
    unsafe clock_gettime(CLOCK_THREAD_CPUTIME_ID, &time)
    return Double(time.tv_sec) * 1e3 + Double(time.tv_nsec) / 1e6
  }
}
