// Kicks and calls: exactly when they were asked for, also over the wrap of the indices, and never
// too few.
import Glibc
import GuestDriver
import GuestMemory
import Linux
import Testing
import Virtqueue

private let eventIdx: VirtioFeatures = [.version1, .ringEventIdx]
private let packedEventIdx: VirtioFeatures = [.version1, .ringEventIdx, .ringPacked]

@Suite("Notifications")
struct NotificationTests {
  /// Offers and returns `count` chains; the device decides nothing yet.
  private func move(_ count: Int, in rig: Rig, _ buffer: DriverQueue.Buffer) throws {
    for _ in 0..<count { rig.ring.add([buffer]) }
    rig.ring.publish()
    for _ in 0..<count { _ = rig.transmit() }
    _ = try rig.ring.allUsed()
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

  @Test("a packed event is met exactly when its descriptor is returned, over the end of the ring")
  func packedCallByEvent() throws {
    var generator = SeededGenerator(seed: 12)
    for size in [1, 2, 13, 64] {
      let rig = try Rig(size: size, features: packedEventIdx, start: 5)
      let buffer = DriverQueue.Buffer(rig.ram.allocate(1), 1)
      for round in 0..<1000 {
        let start = rig.packed.usedPlace
        let count = Int.random(in: 0...size, using: &generator)
        var event = start
        for _ in 0..<Int.random(in: 0..<2 * size, using: &generator) { event.advance(1, in: size) }
        rig.packed.callEvent = event.position
        try move(count, in: rig, buffer)
        var place = start
        var expected = false
        for _ in 0..<count {
          if place == event { expected = true }
          place.advance(1, in: size)
        }
        let needed = rig.device.needsCall()
        #expect(
          needed == expected, "size \(size), round \(round): \(start) by \(count), \(event)")
      }
    }
  }

  @Test("in a packed ring the driver's flags decide, and DESC means nothing without EVENT_IDX")
  func packedFlags() throws {
    for features in [packedEventIdx, [.version1, .ringPacked]] as [VirtioFeatures] {
      let rig = try Rig(size: 8, features: features)
      let buffer = DriverQueue.Buffer(rig.ram.allocate(1), 1)
      rig.packed.callEvent = QueuePosition(0x8005)
      for (flags, wanted) in [(0, true), (1, false), (2, !features.contains(.ringEventIdx))] {
        rig.packed.driverFlags = UInt16(flags)
        try move(1, in: rig, buffer)
        let needed = rig.device.needsCall()
        #expect(needed == wanted, "flags \(flags)")
      }
    }
  }

  @Test(
    "with NOTIFY_ON_EMPTY a driver that has offered nothing more is called whatever it said",
    arguments: [[], .ringEventIdx, .ringPacked, [.ringPacked, .ringEventIdx]] as [VirtioFeatures])
  func notifyOnEmpty(features: VirtioFeatures) throws {
    for isNegotiated in [false, true] {
      let rig = try Rig(
        size: 8, features: features.union(isNegotiated ? [.version1, .notifyOnEmpty] : .version1))
      let buffer = DriverQueue.Buffer(rig.ram.allocate(1), 1)
      rig.ring.disableCalls()
      for _ in 0..<2 { rig.ring.add([buffer]) }
      rig.ring.publish()
      _ = rig.transmit()
      var needed = rig.device.needsCall()
      #expect(!needed)
      _ = rig.transmit()
      needed = rig.device.needsCall()
      #expect(needed == isNegotiated)
      needed = rig.device.needsCall()
      #expect(!needed, "once")
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

  @Test("without EVENT_IDX the driver's flag decides", arguments: Rig.formats)
  func callByFlag(format: VirtioFeatures) throws {
    let rig = try Rig(features: format)
    let buffer = DriverQueue.Buffer(rig.ram.allocate(1), 1)
    try move(1, in: rig, buffer)
    var needed = rig.device.needsCall()
    #expect(needed)
    rig.ring.disableCalls()
    try move(1, in: rig, buffer)
    needed = rig.device.needsCall()
    #expect(!needed)
    _ = rig.ring.enableCalls()
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
    rig.device = try AnyVirtqueue(activating: rig.ring.config(memory: rig.memory))
    rig.device.signalCall()
    rig.device.signalError()
    try move(1, in: rig, DriverQueue.Buffer(rig.ram.allocate(1), 1))
    let called = rig.device.callIfNeeded()
    #expect(called)
  }

  @Test("kicks come exactly while they are enabled, by flag", arguments: Rig.formats)
  func kickByFlag(format: VirtioFeatures) throws {
    let rig = try Rig(features: format)
    let buffer = DriverQueue.Buffer(rig.ram.allocate(1), 1)
    rig.ring.add([buffer])
    #expect(rig.ring.publish())
    rig.device.disableKicks()
    rig.ring.add([buffer])
    #expect(!rig.ring.publish())
    let more = rig.device.enableKicks()
    #expect(more)
    rig.ring.add([buffer])
    #expect(rig.ring.publish())
  }

  @Test(
    "with EVENT_IDX one kick comes for the next chain after looking, over the wrap too",
    arguments: [(16, eventIdx), (16, packedEventIdx), (13, packedEventIdx), (3, packedEventIdx)])
  func kickByEvent(size: Int, features: VirtioFeatures) throws {
    let rig = try Rig(size: size, features: features, start: 65530)
    let buffer = DriverQueue.Buffer(rig.ram.allocate(1), 1)
    for _ in 0..<20 {
      let more = rig.device.enableKicks()
      #expect(!more)
      rig.ring.add([buffer])
      #expect(rig.ring.publish())
      // Further ones are not asked for, until the device looks again.
      rig.ring.add([buffer])
      #expect(!rig.ring.publish())
      while rig.transmit() != nil {}
      _ = try rig.ring.allUsed()
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
        rig.ring.add([buffer])
        rig.ring.publish()
      }
    }
  }
}

@Suite("Wake-ups")
struct WakeUpTests {
  /// Waits for an eventfd; false if nothing came for five seconds.
  private static func wait(_ event: EventDescriptor) -> Bool {
    let events = waitFor(Int16(POLLIN), of: event.raw, milliseconds: 5000)
    event.drain()
    return events != 0
  }

  @Test(
    "two threads that both sleep whenever they may never miss each other",
    .timeLimit(.minutes(1)),
    arguments: [[.version1], eventIdx, [.version1, .ringPacked], packedEventIdx]
      as [VirtioFeatures])
  func handshake(features: VirtioFeatures) throws {
    let ram = try GuestRAM()
    let memory = try ram.memory()
    let driver = ringDriver(in: ram, size: 8, features: features, start: 65000)
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
