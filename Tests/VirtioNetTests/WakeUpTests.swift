// No wake-up is lost: single packets, at the moments when a worker is about to sleep.
//
// Guest and worker go to sleep on each other all the time here.  A packet that nobody was woken for
// stays where it is until the next one, and there is none before it has arrived.  The order of the
// machine's own loads and stores is beyond this test on most machines; the gate fences.sh has it.
import Foundation
import Glibc
import GuestDriver
import Linux
import Testing
import VirtioNet
import Virtqueue

/// A guest that sends and receives one packet at a time, and sleeps for each in its turn.
private final class SleepyGuest {
  private let guest: Guest
  private let port: ScriptedPortQueue
  private let buffer: DriverQueue.Buffer
  private let packet: DriverQueue.Buffer
  private let bytes = frame(60)
  private var sent = 0

  /// Longer than any machine stands still, in milliseconds.
  private static let patience: CInt = 30_000

  init(_ polling: Polling, _ features: VirtioFeatures) throws {
    var options = ScriptedPort.Options()
    options.records = false
    guest = try Guest(features: features, options: options, polling: polling)
    port = guest.port[0]
    buffer = .init(guest.ram.allocate(1600, alignment: 1), 1600, writable: true)
    packet = .init(guest.ram.allocate(72, alignment: 1), 72)
    guest.ram.write([UInt8](repeating: 0, count: 12) + bytes, at: packet.address)
    guest.start(0)
    guest.start(1)
    guest.drivers[0].add([buffer])
    if guest.drivers[0].publish() { guest.kicks[0].signal() }
  }

  var problems: [String] { guest.port.problems }

  /// Whether the worker sent a packet of ours, and gave its buffer back.
  func transmits(sleeping: Bool) throws -> Bool {
    let driver = guest.drivers[1]
    driver.add([packet])
    if driver.publish() { guest.kicks[1].signal() }
    sent += 1
    let since = MonotonicClock.milliseconds
    while port.transmittedCount < sent {
      if MonotonicClock.milliseconds - since > UInt64(SleepyGuest.patience) { return false }
      sched_yield()
    }
    return try waits(for: 1, sleeping: sleeping)
  }

  /// Whether a packet for us arrives; its buffer is offered again.
  func receives(sleeping: Bool) throws -> Bool {
    port.inject([bytes])
    guard try waits(for: 0, sleeping: sleeping) else { return false }
    guest.drivers[0].add([buffer])
    if guest.drivers[0].publish() { guest.kicks[0].signal() }
    return true
  }

  /// Waits for a used chain, as a driver does: it asks for a call, looks once more, and sleeps.
  private func waits(for ring: Int, sleeping: Bool) throws -> Bool {
    let driver = guest.drivers[ring]
    let since = MonotonicClock.milliseconds
    while MonotonicClock.milliseconds - since <= UInt64(SleepyGuest.patience) {
      if try driver.nextUsed() != nil {
        driver.disableCalls()
        return true
      }
      guard sleeping, !driver.enableCalls() else {
        sched_yield()
        continue
      }
      var call = pollfd(fd: guest.calls[ring].raw, events: Int16(POLLIN), revents: 0)
      if unsafe poll(&call, 1, SleepyGuest.patience) == 0 { return false }
      guest.calls[ring].drain()
    }
    return false
  }
}

@Suite("No wake-up is lost")
struct WakeUpTests {
  /// Of all cases together; WAKE_UP_SECONDS asks for another time.
  private static let seconds =
    unsafe getenv("WAKE_UP_SECONDS").flatMap { unsafe Double(String(cString: $0)) } ?? 2

  private static let formats: [VirtioFeatures] = [
    [], .ringEventIdx, .ringPacked, [.ringPacked, .ringEventIdx],
  ]
  private static let pollings = [
    Polling(mode: .adaptive, budget: 20), Polling(mode: .adaptive, budget: 100),
    Polling(mode: .sleep),
  ]

  @Test(
    "single packets at random moments arrive, in both directions", arguments: formats, pollings)
  func edges(features: VirtioFeatures, polling: Polling) throws {
    let guest = try SleepyGuest(polling, features.union([.version1, .mrgRxbuf]))
    var generator = SeededGenerator(seed: 4)
    let share = WakeUpTests.seconds / Double(WakeUpTests.formats.count * WakeUpTests.pollings.count)
    let end = MonotonicClock.nanoseconds + UInt64(share * 1e9)
    var packets = 0
    while MonotonicClock.nanoseconds < end {
      // For a while pauses around one length, so that an adaptive worker learns to spin or not to:
      // at once, at the end of its budget, and far from it.
      let length = UInt64([0, 20_000, 100_000, 200_000].randomElement(using: &generator)!)
      for _ in 0..<16 {
        let pause = UInt64.random(in: length / 2...length + 5000, using: &generator)
        let until = MonotonicClock.nanoseconds + pause
        while MonotonicClock.nanoseconds < until {}
        let sleeping = Bool.random(using: &generator)
        if Bool.random(using: &generator) {
          try #require(
            try guest.transmits(sleeping: sleeping),
            "packet \(packets) from the guest, after \(pause) ns")
        } else {
          try #require(
            try guest.receives(sleeping: sleeping),
            "packet \(packets) to the guest, after \(pause) ns")
        }
        packets += 1
      }
    }
    #expect(guest.problems.isEmpty)
  }

  @Test("a busy worker is never kicked, and hears of what the control plane wants")
  func busy() throws {
    for format in WakeUpTests.formats {
      let features = format.union([.version1, .mrgRxbuf])
      let guest = try Guest(features: features, polling: Polling(mode: .busy))
      guest.start(0)
      guest.start(1)
      guest.giveBuffers(8)
      // A ring asks for kicks until its worker has looked at it for the first time.
      guest.send(frame(60))
      #expect(eventually { guest.port[0].transmittedCount == 1 })
      guest.kicks[1].drain()
      for i in 2..<50 {
        guest.send(frame(60))
        #expect(eventually { guest.port[0].transmittedCount == i })
        _ = try guest.drivers[1].allUsed()
      }
      #expect(!guest.kicks[1].drain())
      guest.port[0].inject([frame(60)])
      #expect(try eventually { try guest.drivers[0].nextUsed() != nil })
      #expect(guest.device.stopQueue(1) != nil)
    }
  }

  @Test("a busy worker drops frames that wait too long, and reports impossible rings")
  func busyChores() throws {
    let guest = try Guest(polling: Polling(mode: .busy))
    guest.start(0)
    guest.start(1)
    guest.port[0].inject([frame(60)])
    #expect(eventually { guest.port[0].waitingCount == 0 })
    guest.port[0].inject([frame(61)])
    #expect(eventually { guest.port[0].waitingCount == 0 })
    #expect(guest.device.settledReport.contains("dropped_no_guest_buffers 1"))
    (guest.drivers[1] as! DriverQueue).pokeAvailIndex(1000)
    #expect(eventually { guest.errors[1].drain() })
  }

  /// Whether an epoll set of this process has `fd`.
  private static func isWatched(_ fd: CInt) -> Bool {
    let folder = "/proc/self/fdinfo"
    return ((try? FileManager.default.contentsOfDirectory(atPath: folder)) ?? []).contains { name in
      let text = (try? String(contentsOfFile: "\(folder)/\(name)", encoding: .utf8)) ?? ""
      return text.split(separator: "\n").contains { line in
        let words = line.split(separator: " ")
        return words.count > 1 && words[0] == "tfd:" && words[1] == "\(fd)"
      }
    }
  }

  @Test("a socket is in an epoll set while its worker sleeps, and in none while it is busy")
  func watching() throws {
    for mode in [PollMode.adaptive, .busy] {
      let guest = try Guest(polling: Polling(mode: mode))
      let fd = try #require(guest.port[0].descriptor)
      guest.start(0)
      guest.start(1)
      guest.giveBuffers(8)
      if mode == .adaptive { #expect(eventually { WakeUpTests.isWatched(fd) }) }
      for i in 1...400 {
        guest.send(frame(60))
        try #require(eventually { guest.port[0].transmittedCount == i })
        _ = try guest.drivers[1].allUsed()
      }
      if mode == .adaptive {
        #expect(eventually { WakeUpTests.isWatched(fd) })
      } else {
        #expect(!WakeUpTests.isWatched(fd))
      }
      guest.port[0].inject([frame(60)])
      #expect(try eventually { try guest.drivers[0].nextUsed() != nil })
      #expect(guest.device.stopQueue(1) != nil)
    }
  }

  @Test("what the kernel does not take at once is offered again, soon and then more slowly")
  func congestion() throws {
    var options = ScriptedPort.Options()
    options.framesPerFlush = 0
    let guest = try Guest(options: options)
    guest.start(1)
    guest.send(frame(60))
    usleep(100_000)
    // In this order, for we may stand still in between.
    let since = MonotonicClock.milliseconds
    let flushes = guest.port[0].flushCount
    #expect(eventually { guest.port[0].flushCount >= flushes + 50 })
    let milliseconds = Int(MonotonicClock.milliseconds - since)
    // Once a millisecond; a machine that is busy with other things may take longer.
    let count = guest.port[0].flushCount - flushes
    #expect(milliseconds >= 25, "\(count) in \(milliseconds) ms")
  }
}
