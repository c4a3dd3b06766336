// The device with its worker threads, driven as a session drives it.
import Glibc
import GuestDriver
import GuestMemory
import HostPort
import Linux
import Synchronization
import Testing
import VhostUser
import VirtioNet
import Virtqueue

/// Waits until something became true; thirty thousand looks, a millisecond apart, at most.
func eventually(_ condition: () throws -> Bool) rethrows -> Bool {
  for _ in 0..<30_000 {
    if try condition() { return true }
    usleep(1000)
  }
  return false
}

extension NetDevice {
  /// The counters as each worker tells them between two turns.  One that has no CPU for a while is not waited
  /// for, and they are read while it may be writing.
  var settledReport: String {
    for _ in 0..<1000 {
      let start = MonotonicClock.milliseconds
      let report = counterReport
      if MonotonicClock.milliseconds - start < 200 { return report }
    }
    return "the workers do not answer"
  }
}

/// A guest with some queue pairs on a device.
final class Guest {
  let ram: GuestRAM
  let memory: GuestMemory
  let port: ScriptedPort
  let device: NetDevice
  var drivers: [any RingDriver] = []
  var kicks: [EventDescriptor] = []
  var calls: [EventDescriptor] = []
  var errors: [EventDescriptor] = []

  init(
    pairs: Int = 1, portQueues: Int? = nil, cpus: [Int] = [],
    features: VirtioFeatures = [.version1, .mrgRxbuf],
    options: ScriptedPort.Options = ScriptedPort.Options(), polling: Polling = Polling()
  ) throws {
    var options = options
    options.queueCount = portQueues ?? pairs
    ram = try GuestRAM(bytes: 16 << 20)
    memory = try ram.memory()
    port = try ScriptedPort(options)
    device = try NetDevice(port: port, queuePairs: pairs, cpus: cpus, polling: polling) { _ in }
    for _ in 0..<2 * pairs {
      drivers.append(ringDriver(in: ram, size: 64, features: features))
      kicks.append(try EventDescriptor())
      calls.append(try EventDescriptor())
      errors.append(try EventDescriptor())
    }
  }

  deinit {
    for ring in drivers.indices { _ = device.stopQueue(ring) }
    device.stop()
  }

  func start(_ ring: Int, isEnabled: Bool = true) {
    device.startQueue(
      drivers[ring].config(
        index: ring, memory: memory, kick: kicks[ring], call: calls[ring], error: errors[ring],
        isEnabled: isEnabled))
  }

  func send(_ bytes: [UInt8], pair: Int = 0) {
    let address = ram.allocate(12 + bytes.count, alignment: 1)
    ram.write([UInt8](repeating: 0, count: 12) + bytes, at: address)
    drivers[2 * pair + 1].add([.init(address, UInt32(12 + bytes.count))])
    if drivers[2 * pair + 1].publish() { kicks[2 * pair + 1].signal() }
  }

  func giveBuffers(_ count: Int, pair: Int = 0) {
    for _ in 0..<count {
      drivers[2 * pair].add([.init(ram.allocate(1600, alignment: 1), 1600, writable: true)])
    }
    if drivers[2 * pair].publish() { kicks[2 * pair].signal() }
  }
}

@Suite("The device on its workers")
struct NetDeviceTests {
  @Test(
    "packets go both ways, by kick and call",
    arguments: [
      [], .ringEventIdx, .ringPacked, [.ringPacked, .ringEventIdx],
      [.ringPacked, .ringEventIdx, .inOrder, .orderPlatform],
    ] as [VirtioFeatures])
  func bothWays(features: VirtioFeatures) throws {
    let guest = try Guest(features: features.union([.version1, .mrgRxbuf]))
    guest.start(0)
    guest.start(1)
    guest.giveBuffers(32)
    var sent: [[UInt8]] = []
    var out: [[UInt8]] = []
    for round in 0..<50 {
      sent.append(frame(60 + round))
      guest.send(sent[round])
      #expect(
        eventually {
          out += guest.port[0].takeTransmitted()
          return out.count == round + 1
        })
      guest.port[0].inject([frame(100)])
      #expect(eventually { guest.calls[0].drain() }, "round \(round)")
      #expect(try eventually { try guest.drivers[0].nextUsed()?.length == 112 })
      _ = guest.drivers[0].enableCalls()
      _ = try guest.drivers[1].allUsed()
      guest.giveBuffers(1)
      // Long enough to fall asleep now and then.
      if round % 5 == 0 { usleep(3000) }
    }
    #expect(out == sent)
    #expect(guest.port.problems.isEmpty)
  }

  @Test("a ring is looked at once when it starts, and its call is written")
  func kickedBefore() throws {
    let guest = try Guest()
    guest.send(frame(60))
    guest.kicks[1].drain()
    guest.start(1)
    #expect(eventually { guest.port[0].takeTransmitted() == [frame(60)] })
    #expect(eventually { guest.calls[1].drain() })
  }

  @Test("after stopping, a ring is not touched and its indices are where the driver is")
  func stop() throws {
    let guest = try Guest()
    guest.start(0)
    guest.start(1)
    guest.giveBuffers(8)
    for i in 0..<5 { guest.send(frame(60 + i)) }
    #expect(eventually { guest.port[0].transmittedCount == 5 })
    #expect(guest.device.stopQueue(1) == VringBase(split: 5))
    #expect(guest.device.stopQueue(0) == VringBase(split: 0))
    guest.send(frame(60))
    guest.port[0].inject([frame(60)])
    usleep(50_000)
    #expect(guest.port[0].transmittedCount == 5)
    #expect(try guest.drivers[0].nextUsed() == nil)
    guest.start(1)
    guest.start(0)
    #expect(eventually { guest.port[0].transmittedCount == 6 })
    #expect(guest.device.stopQueue(1) == VringBase(split: 6))
    #expect(guest.device.stopQueue(1) == nil)
  }

  @Test(
    "a ring that is reset comes back with another size while the others go on",
    arguments: [[], .ringPacked] as [VirtioFeatures])
  func ringReset(format: VirtioFeatures) throws {
    let features = format.union([.version1, .mrgRxbuf, .ringReset])
    let guest = try Guest(pairs: 2, cpus: [0], features: features)
    for ring in 0..<4 { guest.start(ring) }
    guest.giveBuffers(32, pair: 1)
    var seen = 0
    /// The other pair carries packets, both ways.
    func othersMove() throws {
      seen += 1
      guest.send(frame(60), pair: 1)
      #expect(eventually { guest.port[1].transmittedCount == seen })
      guest.port[1].inject([frame(60)])
      #expect(try eventually { try guest.drivers[2].nextUsed() != nil })
    }
    try othersMove()
    var carried = 0
    for size in [128, 16, 256] {
      for ring in 0..<2 {
        #expect(guest.device.stopQueue(ring) != nil)
        try othersMove()
        // As a driver does, whose ring begins anew somewhere else.
        guest.drivers[ring] = ringDriver(in: guest.ram, size: size, features: features)
        guest.start(ring)
        try othersMove()
      }
      guest.giveBuffers(size)
      for _ in 0..<size {
        carried += 1
        guest.send(frame(61))
        #expect(eventually { guest.port[0].transmittedCount == carried })
        guest.port[0].inject([frame(61)])
        #expect(try eventually { try guest.drivers[0].nextUsed() != nil })
        _ = try guest.drivers[1].allUsed()
      }
    }
    #expect(guest.port.problems.isEmpty)
  }

  @Test("the port queue of a pair that the guest does not use feeds one that it does")
  func inactivePairs() throws {
    let guest = try Guest(pairs: 3)
    guest.start(2)
    guest.start(3)
    guest.giveBuffers(16, pair: 1)
    for (queue, length) in [(0, 100), (1, 101), (2, 102)] {
      guest.port[queue].inject([frame(length)])
      #expect(try eventually { try guest.drivers[2].nextUsed()?.length == UInt32(12 + length) })
    }
    // The guest takes the first pair into use: its own port queue comes home.
    guest.start(0)
    guest.start(1)
    guest.giveBuffers(16, pair: 0)
    guest.port[0].inject([frame(200)])
    #expect(try eventually { try guest.drivers[0].nextUsed()?.length == 212 })
    guest.send(frame(70), pair: 0)
    guest.send(frame(71), pair: 1)
    #expect(eventually { guest.port[0].transmittedCount == 1 })
    #expect(eventually { guest.port[1].transmittedCount == 1 })
    // And out of use again.
    _ = guest.device.stopQueue(1)
    _ = guest.device.stopQueue(0)
    guest.port[0].inject([frame(103)])
    #expect(try eventually { try guest.drivers[2].nextUsed()?.length == 115 })
    #expect(guest.port.problems.isEmpty)
  }

  @Test("an impossible ring signals its error and costs only itself")
  func fault() throws {
    let guest = try Guest()
    guest.start(0)
    guest.start(1)
    (guest.drivers[1] as! DriverQueue).pokeAvailIndex(1000)
    guest.kicks[1].signal()
    #expect(eventually { guest.errors[1].drain() })
    guest.giveBuffers(4)
    guest.port[0].inject([frame(60)])
    #expect(try eventually { try guest.drivers[0].nextUsed() != nil })
    #expect(guest.device.stopQueue(1) != nil)
  }

  @Test("a ring outside guest memory is refused through its error descriptor")
  func refused() throws {
    let guest = try Guest()
    var config = guest.drivers[1].config(
      index: 1, memory: guest.memory, kick: guest.kicks[1], error: guest.errors[1])
    config.usedRing = FrontEndAddress(16)
    guest.device.startQueue(config)
    #expect(guest.errors[1].drain())
    #expect(guest.device.stopQueue(1) == nil)
  }

  @Test("a ring that is refused again and again does not fill the log")
  func refusedOften() throws {
    let lines = Mutex(0)
    let ram = try GuestRAM(bytes: 1 << 20)
    let device = try NetDevice(port: try ScriptedPort(), queuePairs: 1, cpus: []) { _ in
      lines.withLock { $0 += 1 }
    }
    var config = DriverQueue(in: ram, size: 16).config(index: 1, memory: try ram.memory())
    config.usedRing = FrontEndAddress(16)
    for _ in 0..<500 { device.startQueue(config) }
    device.stop()
    #expect((1...LogLimit.burst + 20).contains(lines.withLock { $0 }))
  }

  @Test("an idle worker sleeps, also while frames wait for a guest without buffers")
  func sleeps() throws {
    let guest = try Guest()
    guest.start(0)
    guest.start(1)
    guest.port[0].inject([frame(60)])
    usleep(50_000)
    // A turn that does nothing flushes too; asleep there are only the turns of the 100 ms timer.
    let before = guest.port[0].flushCount
    usleep(300_000)
    #expect(guest.port[0].flushCount - before < 1000)
    guest.giveBuffers(1)
    #expect(try eventually { try guest.drivers[0].nextUsed() != nil })
  }

  @Test("without guest buffers the newest frames replace the waiting ones")
  func newest() throws {
    let guest = try Guest()
    guest.start(0)
    guest.port[0].inject((0..<64).map { _ in frame(60) })
    usleep(20_000)
    guest.port[0].inject([frame(61), frame(62)])
    #expect(eventually { guest.port[0].waitingCount == 0 })
    guest.giveBuffers(8)
    #expect(try eventually { try guest.drivers[0].nextUsed()?.length == 73 })
    #expect(guest.device.settledReport.contains("dropped_no_guest_buffers 64"))
    #expect(guest.port.problems.isEmpty)
  }

  @Test("frames from before the guest came are not delivered to it")
  func stale() throws {
    let guest = try Guest()
    guest.port[0].inject([frame(60), frame(60)])
    guest.start(0)
    guest.giveBuffers(4)
    guest.port[0].inject([frame(90)])
    #expect(try eventually { try guest.drivers[0].nextUsed()?.length == 102 })
    #expect(guest.device.settledReport.contains("dropped_no_guest 2"))
  }

  @Test("a migrated guest is announced by a reverse ARP broadcast")
  func announce() throws {
    let guest = try Guest()
    guest.device.announce((2, 0, 0, 0, 0, 9))
    var sent: [[UInt8]] = []
    #expect(
      eventually {
        sent += guest.port[0].takeTransmitted()
        return sent.count == 1
      })
    #expect(sent.first?.count == 60)
    #expect(sent.first?.prefix(14) == [255, 255, 255, 255, 255, 255, 2, 0, 0, 0, 0, 9, 0x80, 0x35])
  }
}
