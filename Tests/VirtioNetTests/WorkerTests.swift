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

  @Test("without descriptors left a device is refused or works, and nobody waits for ever")
  func fewDescriptors() async {
    await #expect(processExitsWith: .success) {
      // Ends the process if the device makes us wait.
      alarm(60)
      let ram = try GuestRAM(bytes: 1 << 20)
      let memory = try ram.memory()
      var limit = rlimit(rlim_cur: 200, rlim_max: 200)
      unsafe setrlimit(__rlimit_resource_t(7), &limit)  // RLIMIT_NOFILE
      var fillers: [CInt] = []
      while case let filler = dup(0), filler >= 0 { fillers.append(filler) }
      var worked = 0
      for free in 0..<12 {
        for filler in fillers.suffix(free) { close(filler) }
        fillers.removeLast(free)
        do {
          let device = try NetDevice(port: NullPort(), queuePairs: 1, cpus: []) { _ in }
          while case let filler = dup(0), filler >= 0 { fillers.append(filler) }
          for ring in 0..<2 {
            let driver = DriverQueue(in: ram, size: 16)
            device.startQueue(driver.config(index: ring, memory: memory))
          }
          for ring in 0..<2 where device.stopQueue(ring) == nil { exit(1) }
          device.stop()
          worked += 1
        } catch is PortError {}
        while case let filler = dup(0), filler >= 0 { fillers.append(filler) }
      }
      exit(worked > 0 ? 0 : 2)
    }
  }
}
