// Kicks and calls: exactly when they were asked for, also over the wrap of the indices, and never
// too few.
import GuestDriver
import GuestMemory
import Linux
import Testing
import Virtqueue

private let eventIdx: VirtioFeatures = [.version1, .ringEventIdx]

@Suite("Notifications")
struct NotificationTests {
  /// Offers and returns `count` chains; the device decides nothing yet.
  private func move(_ count: Int, in rig: Rig, _ buffer: DriverQueue.Buffer) throws {
    for _ in 0..<count { rig.driver.add([buffer]) }
    rig.driver.publish()
    for _ in 0..<count { _ = rig.transmit() }
    _ = try rig.driver.allUsed()
  }

  @Test("with EVENT_IDX a call is made exactly when the used index passes the driver's event")
  func callByEvent() throws {
    var generator = SeededGenerator(seed: 11)
    let rig = try Rig(size: 64, features: eventIdx, start: 65400)
    let buffer = DriverQueue.Buffer(rig.ram.allocate(1), 1)
    for round in 0..<3000 {
      let old = rig.driver.publishedUsedIndex
      let count = Int.random(in: 0...64, using: &generator)
      let event = old &+ UInt16(truncatingIfNeeded: Int.random(in: -70...70, using: &generator))
      rig.driver.usedEvent = event
      try move(count, in: rig, buffer)
      // Asked for if one of the entries old..<old + count is the event.
      let expected = (0..<count).contains { old &+ UInt16($0) == event }
      let needed = rig.device.needsCall()
      #expect(
        needed == expected, "round \(round): from \(old) by \(count), event \(event)")
    }
  }

  @Test("an event that was passed between two decisions is not lost")
  func severalPublishes() throws {
    let rig = try Rig(size: 64, features: eventIdx)
    let buffer = DriverQueue.Buffer(rig.ram.allocate(1), 1)
    rig.driver.usedEvent = 1
    for _ in 0..<4 { try move(1, in: rig, buffer) }
    var needed = rig.device.needsCall()
    #expect(needed)
    // Asked again with nothing new: no.
    needed = rig.device.needsCall()
    #expect(!needed)
  }

  @Test("without EVENT_IDX the driver's flag decides")
  func callByFlag() throws {
    let rig = try Rig(features: [.version1])
    let buffer = DriverQueue.Buffer(rig.ram.allocate(1), 1)
    try move(1, in: rig, buffer)
    var needed = rig.device.needsCall()
    #expect(needed)
    rig.driver.disableCalls()
    try move(1, in: rig, buffer)
    needed = rig.device.needsCall()
    #expect(!needed)
    _ = rig.driver.enableCalls()
    try move(1, in: rig, buffer)
    needed = rig.device.needsCall()
    #expect(needed)
  }

  @Test("without EVENT_IDX the event field means nothing, with it the flag means nothing")
  func otherMechanism() throws {
    let plain = try Rig(features: [.version1])
    let buffer = DriverQueue.Buffer(plain.ram.allocate(1), 1)
    plain.driver.usedEvent = 1000
    try move(1, in: plain, buffer)
    var needed = plain.device.needsCall()
    #expect(needed)

    let event = try Rig(features: eventIdx)
    event.driver.availFlags = 1
    event.driver.usedEvent = 0
    try move(1, in: event, DriverQueue.Buffer(event.ram.allocate(1), 1))
    needed = event.device.needsCall()
    #expect(needed)
  }

  @Test("a call is written to the eventfd only when needed, or when it is forced")
  func callDescriptor() throws {
    let rig = try Rig(features: [.version1])
    var called = rig.device.callIfNeeded()
    #expect(!called)
    #expect(!rig.call.drain())
    try move(1, in: rig, DriverQueue.Buffer(rig.ram.allocate(1), 1))
    called = rig.device.callIfNeeded()
    #expect(called)
    #expect(rig.call.drain())
    rig.device.signalCall()
    #expect(rig.call.drain())
  }

  @Test("a ring without a call descriptor does not mind")
  func polling() throws {
    let rig = try Rig()
    rig.device = try AnyVirtqueue(activating: rig.driver.config(memory: rig.memory))
    rig.device.signalCall()
    rig.device.signalError()
    try move(1, in: rig, DriverQueue.Buffer(rig.ram.allocate(1), 1))
    let called = rig.device.callIfNeeded()
    #expect(called)
  }

  @Test("kicks come exactly while they are enabled, by flag")
  func kickByFlag() throws {
    let rig = try Rig(features: [.version1])
    let buffer = DriverQueue.Buffer(rig.ram.allocate(1), 1)
    rig.driver.add([buffer])
    #expect(rig.driver.publish())
    rig.device.disableKicks()
    rig.driver.add([buffer])
    #expect(!rig.driver.publish())
    let more = rig.device.enableKicks()
    #expect(more)
    rig.driver.add([buffer])
    #expect(rig.driver.publish())
  }

  @Test("with EVENT_IDX one kick comes for the next head after looking, over the wrap too")
  func kickByEvent() throws {
    let rig = try Rig(size: 16, features: eventIdx, start: 65530)
    let buffer = DriverQueue.Buffer(rig.ram.allocate(1), 1)
    for _ in 0..<20 {
      let more = rig.device.enableKicks()
      #expect(!more)
      rig.driver.add([buffer])
      #expect(rig.driver.publish())
      // Further ones are not asked for, until the device looks again.
      rig.driver.add([buffer])
      #expect(!rig.driver.publish())
      while rig.transmit() != nil {}
      _ = try rig.driver.allUsed()
    }
  }

  @Test("enabling kicks says whether something came in the meantime")
  func lookAgain() throws {
    for features in [[.version1], eventIdx] as [VirtioFeatures] {
      let rig = try Rig(size: 16, features: features, start: 65534)
      let buffer = DriverQueue.Buffer(rig.ram.allocate(1), 1)
      rig.device.disableKicks()
      for waiting in 0..<4 {
        for beyond in 0..<5 {
          if beyond > waiting { continue }
          let more = rig.device.enableKicks(beyond: QueuePosition(65534 &+ UInt16(beyond)))
          #expect(more == (waiting > beyond), "\(waiting) wait, \(beyond) are known")
          // With that many known, the next one is announced.
          if features.contains(.ringEventIdx) {
            #expect(rig.driver.availEvent == 65534 &+ UInt16(beyond))
          }
        }
        rig.driver.add([buffer])
        rig.driver.publish()
      }
    }
  }
}

@Suite("Wake-ups")
struct WakeUpTests {
  /// Waits for an eventfd; false if nothing came for five seconds.
  private static func wait(_ event: EventDescriptor) -> Bool {
    guard let set = try? EpollSet() else { return false }
    guard (try? set.add(event.raw, .readable, tag: 0)) != nil else { return false }
    let ready = set.wait(milliseconds: 5000) { _, _ in }
    event.drain()
    return ready > 0
  }

  @Test(
    "two threads that both sleep whenever they may never miss each other",
    .timeLimit(.minutes(1)), arguments: [[.version1], eventIdx] as [VirtioFeatures])
  func handshake(features: VirtioFeatures) throws {
    let ram = try GuestRAM()
    let memory = try ram.memory()
    let driver = DriverQueue(in: ram, size: 8, features: features, start: 65000)
    let kick = try EventDescriptor()
    let call = try EventDescriptor()
    let config = driver.config(memory: memory, kick: kick, call: call)
    let total = 20_000
    let done = try Reply<Bool>()
    let device = try PinnedThread(name: "device") {
      guard let queue = try? AnyVirtqueue(activating: config) else { return done.fulfil(false) }
      var count = 0
      while count < total {
        var position = queue.position
        var waiting = 0
        while case .chain(let chain) = queue.skip(at: &position) {
          queue.push(chain, length: 0)
          waiting += 1
        }
        if waiting == 0 {
          if !queue.enableKicks(), !WakeUpTests.wait(kick) { return done.fulfil(false) }
          queue.disableKicks()
          continue
        }
        queue.take(to: position)
        queue.publish()
        queue.callIfNeeded()
        count += waiting
      }
      done.fulfil(true)
    }
    let buffer = DriverQueue.Buffer(ram.allocate(1), 1)
    var sent = 0
    var returned = 0
    var stalled = false
    while returned < total, !stalled {
      while sent < total, driver.add([buffer]) != nil { sent += 1 }
      if driver.publish() { kick.signal() }
      let used = try driver.allUsed().count
      returned += used
      if used == 0, returned < total, !driver.enableCalls() {
        stalled = !WakeUpTests.wait(call)
      }
    }
    #expect(!stalled)
    #expect(returned == total)
    #expect(done.wait())
    device.join()
  }
}
