// A worker as a thread: when it sleeps, and what happens when it cannot be had.
import CLinux
import Glibc
import GuestDriver
import HostPort
import Linux
import Testing
import VirtioNet

@Suite("A worker's thread")
struct WorkerTests {
  /// Nanoseconds of CPU that the calling thread has used.
  private static func cpuTime() -> Int {
    var time = timespec()
    unsafe clock_gettime(CLOCK_THREAD_CPUTIME_ID, &time)
    return time.tv_sec * 1_000_000_000 + time.tv_nsec
  }

  @Test("a wake-up that comes after its message was read does not keep the worker awake")
  func lateWakeUp() throws {
    let mailbox = try Mailbox<WorkerMessage>()
    let used = try Reply<Int>()
    let thread = try PinnedThread(name: "late-wake-up") {
      _ = try? Worker(mailbox: mailbox) { _ in }.run()
      used.fulfil(WorkerTests.cpuTime())
    }
    // `post` makes the message visible first; a worker that looks just then has read it already.
    mailbox.wakeUp.signal()
    usleep(400_000)
    mailbox.post(.end)
    #expect(used.wait() < 20_000_000)
    thread.join()
  }
}
