// What something costs the thread that does it: time on a CPU, which other load does not lengthen as it
// does time on the wall.
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

  private static var now: Double {
    var time = timespec()
    unsafe clock_gettime(CLOCK_THREAD_CPUTIME_ID, &time)
    return Double(time.tv_sec) * 1e3 + Double(time.tv_nsec) / 1e6
  }
}
