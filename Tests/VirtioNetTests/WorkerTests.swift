// A worker as a thread: when it sleeps, and what happens when it cannot be had.
import CLinux
import Glibc
import GuestDriver
import GuestMemory
import HostPort
import Linux
import Testing
import VirtioNet
import Virtqueue

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

  @Test("without rings it sleeps, and no such time counts as spent on looking for packets")
  func noRings() throws {
    let mailbox = try Mailbox<WorkerMessage>()
    let counters = WorkerCounters()
    let thread = try PinnedThread(name: "no-rings") {
      _ = try? Worker(mailbox: mailbox, counters: counters) { _ in }.run()
    }
    for number in 1...40 as ClosedRange<UInt64> {
      let sleeps = counters.sleeps.current
      mailbox.post(.showSign(number))
      #expect(eventually { counters.sign.current == number && counters.sleeps.current > sleeps })
      usleep(5000)
    }
    mailbox.post(.end)
    thread.join()
    #expect(counters.sleeps.current >= 20)
    #expect(counters.idleTime.current < 20_000_000)
  }

  @Test("a port queue that moves to another worker keeps what arrives meanwhile")
  func moves() throws {
    let ram = try GuestRAM(bytes: 1 << 20)
    let memory = try ram.memory()
    let queue = try ScriptedPort().openQueue(0) as! ScriptedPortQueue
    let counters = RingCounters()
    var idleSince: UInt64 = 0
    for round in 0..<2 {
      let mailbox = try Mailbox<WorkerMessage>()
      let worker = try Worker(mailbox: mailbox) { _ in }
      let driver = DriverQueue(in: ram, size: 16, features: [.version1, .mrgRxbuf])
      driver.add([.init(ram.allocate(1600, alignment: 1), 1600, writable: true)])
      driver.publish()
      mailbox.post(
        .startQueue(
          driver.config(index: 0, memory: memory), queue, RingCounters(), try Reply<QueueStart>()))
      mailbox.post(.adopt(queue, counters, idleSince: idleSince))
      mailbox.post(.route(port: 0, ring: 0, try Reply<Bool>()))
      #expect(worker.readMail())
      _ = worker.turn()
      #expect(try driver.nextUsed()?.length == (round == 0 ? nil : 72))
      let yielded = try Reply<UInt64>()
      mailbox.post(.yield(0, yielded))
      #expect(worker.readMail())
      idleSince = yielded.wait()
      queue.inject([frame(60)])
    }
    #expect(counters.dropped(.noGuest) == 0)
  }

  @Test(
    "reflected packets come back at any spacing, and wait asleep for buffers",
    arguments: [[], .ringEventIdx, .ringPacked] as [VirtioFeatures])
  func reflects(features: VirtioFeatures) throws {
    let ram = try GuestRAM(bytes: 4 << 20)
    let memory = try ram.memory()
    let queue = try ReflectPort().openQueue(0)
    let mailbox = try Mailbox<WorkerMessage>()
    let used = try Reply<Int>()
    let thread = try PinnedThread(name: "reflects") {
      _ = try? Worker(mailbox: mailbox) { _ in }.run()
      used.fulfil(WorkerTests.cpuTime())
    }
    let features = features.union([.version1, .mrgRxbuf])
    let drivers = (0..<2).map { _ in ringDriver(in: ram, size: 64, features: features) }
    let kicks = [try EventDescriptor(), try EventDescriptor()]
    for ring in 0..<2 {
      let config = drivers[ring].config(index: ring, memory: memory, kick: kicks[ring])
      let started = try Reply<QueueStart>()
      mailbox.post(.startQueue(config, queue, RingCounters(), started))
      guard case .running = started.wait() else { throw Errno(EINVAL) }
    }
    mailbox.post(.adopt(queue, RingCounters(), idleSince: 0))
    mailbox.post(.route(port: 0, ring: 0, try Reply<Bool>()))

    let room = ram.allocate(1600, alignment: 1)
    func giveBuffer() {
      drivers[0].add([.init(room, 1600, writable: true)])
      if drivers[0].publish() { kicks[0].signal() }
    }
    for round in 0..<40 {
      let bytes = frame(60 + round)
      let address = ram.allocate(12 + bytes.count, alignment: 1)
      ram.write([UInt8](repeating: 0, count: 12) + bytes, at: address)
      if round % 2 == 0 { giveBuffer() }
      drivers[1].add([.init(address, UInt32(12 + bytes.count))])
      if drivers[1].publish() { kicks[1].signal() }
      // Before, while and after the worker falls asleep.
      usleep(UInt32(round * 50))
      if round % 2 == 1 { giveBuffer() }
      #expect(
        try eventually { try drivers[0].nextUsed()?.length == UInt32(12 + bytes.count) },
        "round \(round)")
      #expect(ram.read(GuestAddress(room.value + 12), count: bytes.count) == bytes)
      #expect(try eventually { try drivers[1].nextUsed() != nil })
    }
    usleep(400_000)
    mailbox.post(.end)
    #expect(used.wait() < 200_000_000)
    thread.join()
  }

  @Test("without descriptors left a device is refused or works, and nobody waits for ever")
  func fewDescriptors() async {
    await #expect(processExitsWith: .success) {
      // Ends the process if the device makes us wait.
      alarm(300)
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
