// Configuration space and control queue, with a front-end that forwards them: what a driver says,
// and what becomes of packets.
import Glibc
import GuestDriver
import GuestMemory
import HostPort
import Linux
import Packet
import Testing
import VhostUser
import Virtqueue

@testable import VirtioNet

private let ok = ForwardingGuest.ok
private let error = ForwardingGuest.error

@Suite("The control queue")
struct ControlQueueTests {
  private let own = ForwardingGuest.address
  private let other = MACAddress("52:54:00:aa:00:01")!
  private let group = MACAddress("33:33:00:00:00:01")!
  private let broadcast = MACAddress("ff:ff:ff:ff:ff:ff")!

  private func frame(_ destination: MACAddress, _ size: Int, vlan: UInt16? = nil) -> [UInt8] {
    let tag: [UInt8] = vlan.map { [0x81, 0, UInt8($0 >> 8), UInt8($0 & 255)] } ?? []
    let head = destination.bytes + [2, 0, 0, 0, 0, 9] + tag + [8, 0]
    return head + [UInt8](repeating: 0x5a, count: size - head.count)
  }

  /// What of these frames arrives, by sizes; the last one always does.
  private func arrivals(
    _ guest: ForwardingGuest, _ frames: [(MACAddress, UInt16?)]
  ) throws -> [Int] {
    // Each has a size of its own.  A frame that is wanted follows them, so that nobody waits.
    let all = frames.enumerated().map { frame($1.0, 100 + $0, vlan: $1.1) }
    guest.port[0].inject(all + [frame(own, 99)])
    var seen: [Int] = []
    #expect(
      try guest.eventually {
        seen += try guest.takeReceived()
        return seen.last == 99
      })
    try guest.giveBuffers(seen.count, pair: 0)
    return seen.dropLast().map { $0 - 100 }
  }

  @Test("receive modes, address table and VLAN table decide which packets arrive")
  func filter() throws {
    let guest = try ForwardingGuest()
    try guest.start()
    let probes: [(MACAddress, UInt16?)] = [
      (own, nil), (other, nil), (group, nil), (broadcast, nil), (own, 5), (other, 5),
    ]
    #expect(try arrivals(guest, probes) == [0, 1, 2, 3, 4, 5], "promiscuous at first")
    func expect(_ bytes: [UInt8], _ wanted: [Int], _ comment: Comment? = nil) throws {
      #expect(try guest.command(bytes) == ok, "\(bytes)")
      #expect(try arrivals(guest, probes) == wanted, comment)
    }
    try expect([0, 0, 0], [0, 3], "not promiscuous: its own and broadcast, no VLAN")
    try expect([0, 1, 1], [0, 2, 3], "all multicast")
    try expect([0, 3, 1], [0, 3], "no multicast is stronger, and is not about broadcast")
    try expect([0, 3, 0], [0, 2, 3])
    try expect([0, 1, 0], [0, 3])
    try expect([0, 5, 1], [0], "no broadcast")
    try expect([0, 5, 0], [0, 3])
    try expect([0, 2, 1], [0, 1, 3], "all unicast")
    try expect([0, 2, 0], [0, 3])
    try expect(
      [1, 0, 1, 0, 0, 0] + other.bytes + [1, 0, 0, 0] + group.bytes, [0, 1, 2, 3], "the tables")
    try expect([2, 0, 5, 0], [0, 1, 2, 3, 4, 5], "VLAN 5")
    try expect([2, 1, 5, 0], [0, 1, 2, 3])
    try expect([1, 0, 0, 0, 0, 0, 0, 0, 0, 0], [0, 3])
    try expect([0, 0, 1], [0, 1, 2, 3, 4, 5], "promiscuous again")
    let counted = try guest.onControlThread { $0.counterReport }
    #expect(counted.contains("dropped_filtered"))
    #expect(guest.port.problems.isEmpty)
  }

  @Test("no unicast: nothing is sent to the guest by its address")
  func noUnicast() throws {
    let guest = try ForwardingGuest()
    try guest.start()
    #expect(try guest.command([0, 4, 1]) == ok)
    #expect(try arrivals(guest, [(own, nil)]) == [0], "promiscuous mode is stronger")
    #expect(try guest.command([0, 0, 0]) == ok)
    guest.port[0].inject([frame(own, 100), frame(broadcast, 101)])
    var seen: [Int] = []
    #expect(
      try guest.eventually {
        seen += try guest.takeReceived()
        return seen == [101]
      })
  }

  @Test("an address that the driver sets is shown in configuration space and received")
  func address() throws {
    let guest = try ForwardingGuest()
    try guest.start()
    #expect(try guest.readConfiguration(0, 6) == own.bytes)
    #expect(try guest.command([0, 0, 0]) == ok)
    #expect(try guest.command([1, 1] + other.bytes) == ok)
    #expect(try guest.readConfiguration(0, 6) == other.bytes)
    guest.port[0].inject([frame(own, 100), frame(other, 101)])
    var seen: [Int] = []
    #expect(
      try guest.eventually {
        seen += try guest.takeReceived()
        return seen == [101]
      })
    #expect(try guest.command([1, 1] + group.bytes) == error)
    #expect(try guest.readConfiguration(0, 6) == other.bytes)
  }

  @Test("where packets are steered by address, the driver may take none but those")
  func steered() throws {
    var options = ControlOptions(address: own)
    options.steered = [own, other]
    let guest = try ForwardingGuest(options: options)
    try guest.start()
    let third = MACAddress("52:54:00:bb:00:01")!
    #expect(try guest.command([1, 1] + third.bytes) == error)
    #expect(
      guest.eventually { guest.log.contains { $0.contains("\(third)") && $0.contains("--mac") } })
    #expect(try guest.command([1, 1] + other.bytes) == ok)
  }

  @Test("queue pairs that the driver does not use carry nothing, and those it uses do")
  func queuePairs() throws {
    let guest = try ForwardingGuest(pairs: 3)
    try guest.start()
    #expect(try guest.readConfiguration(8, 2) == [3, 0])
    /// Receive queues that the frames of the three port queues arrive on.
    func used() throws -> Set<Int> {
      var pairs: Set<Int> = []
      var count = 0
      for queue in 0..<3 { guest.port[queue].inject([frame(own, 100)]) }
      #expect(
        try guest.eventually {
          for pair in 0..<3 {
            let arrived = try guest.takeReceived(pair: pair).count
            if arrived > 0 { pairs.insert(pair) }
            count += arrived
          }
          return count == 3
        })
      return pairs
    }
    #expect(try used() == [0], "one pair until the driver says otherwise")
    #expect(try guest.command([4, 0, 3, 0]) == ok)
    #expect(try used() == [0, 1, 2])
    #expect(try guest.command([4, 0, 2, 0]) == ok)
    #expect(try used() == [0, 1])
    for count: UInt8 in [0, 4] { #expect(try guest.command([4, 0, count, 0]) == error) }
    #expect(try guest.command([4, 0, 0, 0x80]) == error)
    #expect(try used() == [0, 1])
    // A pair that is not in use discards what is transmitted.
    let place = guest.ram.allocate(100)
    for (pair, expected) in [(1, 1), (2, 1), (0, 2)] {
      guest.rings[2 * pair + 1].queue.add([.init(place, 100)])
      guest.rings[2 * pair + 1].publish()
      #expect(try guest.eventually { try guest.rings[2 * pair + 1].queue.nextUsed() != nil })
      // The driver has its buffer back before the port has flushed.
      #expect(
        guest.eventually {
          (0..<3).reduce(0) { $0 + guest.port[$1].transmittedCount } == expected
        })
    }
    #expect(guest.port.problems.isEmpty)
  }

  @Test("without MQ the control queue is ring 2, whatever the device could have")
  func noMultiqueue() throws {
    let guest = try ForwardingGuest(pairs: 2)
    try guest.start(features: ForwardingGuest.features.subtracting(.mq))
    #expect(guest.control?.index == 2)
    #expect(try guest.command([0, 1, 1]) == ok)
    #expect(try arrivals(guest, [(own, nil)]) == [0])
    #expect(try guest.command([4, 0, 1, 0]) == error, "not negotiated")
  }

  @Test("commands that are none are answered with an error and change nothing")
  func refused() throws {
    let guest = try ForwardingGuest(pairs: 2)
    try guest.start()
    let before = try guest.onControlThread { $0.controlState }
    let wrong: [[UInt8]] = [
      [], [0], [0, 0], [0, 0, 0, 0], [0, 9, 0], [1, 0, 255, 255, 255, 255], [2, 0, 0, 16], [3, 9],
      [4, 0, 9, 0], [4, 1, 1, 0], [5, 0, 0, 0, 0, 0, 0, 0, 0, 0], [99, 99],
      [1, 0, 0, 0, 1, 0] + [UInt8](repeating: 2, count: 70_000),
    ]
    for bytes in wrong { #expect(try guest.command(bytes) == error, "\(bytes.prefix(8))") }
    #expect(try guest.command([0, 0, 0], answer: 0) == nil, "no room for an answer")
    #expect(try guest.onControlThread { $0.controlState } == before)
    #expect(try guest.command([0, 0, 0]) == ok)
    #expect(guest.eventually { guest.log.contains { $0.contains("class 99") } })
  }

  @Test("hostile chains cost themselves, and an impossible ring costs the control queue")
  func hostile() throws {
    let guest = try ForwardingGuest()
    try guest.start()
    let control = try #require(guest.control)
    let write = DescriptorFlags.write
    let next = DescriptorFlags.next
    let place = guest.ram.allocate(64).value
    let chains: [[RawDescriptor]] = [
      [RawDescriptor(place, 3, flags: next, next: 0)],
      [RawDescriptor(place, 3, flags: next, next: 999)],
      [RawDescriptor(1 << 60, 3)],
      [RawDescriptor(place, .max)],
      [RawDescriptor(place, 1, flags: write | next, next: 1), RawDescriptor(place, 3)],
      [RawDescriptor(place, 16, flags: DescriptorFlags.indirect)],
    ]
    for (i, chain) in chains.enumerated() {
      control.queue.pokeChain(chain)
      control.kick.signal()
      #expect(guest.eventually { control.queue.publishedUsedIndex == UInt16(i + 1) })
      #expect(control.queue.usedElement(UInt16(i)).length == 0)
    }
    guest.ram.write([0, 1, 1, 0xaa], at: GuestAddress(place))
    control.queue.pokeChain([
      RawDescriptor(place, 3, flags: next, next: 1), RawDescriptor(place + 3, 1, flags: write),
    ])
    control.kick.signal()
    #expect(guest.eventually { guest.ram.read(GuestAddress(place + 3), count: 1) == [0] })
    control.queue.pokeAvailIndex(1000)
    control.kick.signal()
    #expect(guest.eventually { control.error.drain() })
    #expect(guest.eventually { guest.log.contains { $0.contains("the control queue stopped") } })
    #expect(try arrivals(guest, [(own, nil)]) == [0], "packets go on")
  }

  @Test("many commands at once are all carried out")
  func many() throws {
    let guest = try ForwardingGuest()
    try guest.start()
    let control = try #require(guest.control)
    for round in 0..<40 {
      for i in 0..<32 {
        let place = guest.ram.allocate(4)
        guest.ram.write([2, 0, UInt8(round), UInt8(i & 15)], at: place)
        control.queue.add([.init(place, 4), .init(guest.ram.allocate(1), 1, writable: true)])
      }
      control.publish()
      var done = 0
      #expect(
        try guest.eventually {
          done += try control.queue.allUsed().count
          return done == 32
        })
    }
    #expect(guest.log.isEmpty)
  }

  @Test("what was configured survives a stop of the rings, and goes with a reset")
  func reset() throws {
    let guest = try ForwardingGuest(pairs: 2)
    try guest.start()
    #expect(try guest.command([0, 0, 0]) == ok)
    #expect(try guest.command([1, 1] + other.bytes) == ok)
    #expect(try guest.command([4, 0, 2, 0]) == ok)
    let configured = try guest.onControlThread { $0.controlState }
    // A new memory table stops and starts every ring.
    try guest.front.setMemory(guest.ram)
    #expect(try guest.onControlThread { $0.controlState } == configured)
    #expect(try guest.command([0, 1, 1]) == ok, "the ring goes on")
    #expect(try guest.command([0, 1, 0]) == ok)
    guest.port[0].inject([frame(own, 100), frame(other, 101)])
    #expect(try guest.eventually { try guest.takeReceived() == [101] })

    try guest.front.tell(.resetDevice)
    let fresh = ControlState(address: own)
    #expect(try guest.onControlThread { $0.controlState } == fresh)
    #expect(try guest.readConfiguration(0, 6) == own.bytes)

    // Front-ends without a reset take every ring away and begin again with SET_FEATURES.
    try guest.start()
    #expect(try guest.command([0, 1, 1]) == ok)
    for ring in 0..<5 { _ = try guest.front.vringBase(ring) }
    #expect(try guest.onControlThread { $0.controlState } != fresh, "it may be paused only")
    try guest.front.setFeatures(guest.front.features)
    #expect(try guest.onControlThread { $0.controlState } == fresh)
  }

  @Test("what a driver configured elsewhere is restored, and the guest asked to announce itself")
  func restore() throws {
    let guest = try ForwardingGuest()
    var state = ControlState(address: other)
    state.receive.promiscuous = false
    let saved = state
    #expect(try guest.onControlThread { $0.restore(saved) })
    try guest.start()
    #expect(try guest.nextNews() == 2)
    #expect(try guest.status() == 3)
    #expect(try guest.readConfiguration(0, 6) == other.bytes)
    guest.port[0].inject([frame(own, 100), frame(other, 101)])
    #expect(try guest.eventually { try guest.takeReceived() == [101] })
    state.queuePairs = 2
    let unfit = state
    #expect(try !guest.onControlThread { $0.restore(unfit) })
  }

  @Test("a driver that does not forward its control queue gets everything")
  func notForwarded() throws {
    let guest = try ForwardingGuest(pairs: 2)
    try guest.start()
    _ = try guest.front.vringBase(4)
    try guest.front.tell(.resetDevice)
    try guest.front.setFeatures(guest.front.features)
    // CTRL_VQ is negotiated, and the front-end serves it itself.
    for ring in guest.rings {
      let queue = DriverQueue(in: guest.ram, size: 64, features: ForwardingGuest.features)
      for _ in 0..<16 { queue.add([.init(guest.ram.allocate(1600), 1600, writable: true)]) }
      let fresh = try FrontEndRing(index: ring.index, queue: queue)
      try guest.front.start(fresh)
      if ring.index % 2 == 0 {
        fresh.publish()
        guest.port[ring.index / 2].inject([frame(other, 100, vlan: 7)])
        #expect(try guest.eventually { try queue.nextUsed()?.length == 112 }, "\(ring.index)")
      }
    }
  }

  @Test("a control queue without a kick descriptor is looked at")
  func polled() throws {
    let guest = try ForwardingGuest()
    try guest.start(kicked: false)
    #expect(try guest.command([0, 0, 0]) == ok)
  }

  @Test(
    "commands of a split and of a packed ring are answered",
    arguments: [[], .ringPacked] as [VirtioFeatures])
  func formats(format: VirtioFeatures) throws {
    let device = try unserved()
    defer { device.stop() }
    let ram = try GuestRAM(bytes: 1 << 20)
    let features = format.union([.version1, .ringIndirectDesc, .ctrlVq, .ctrlRx])
    let driver = ringDriver(in: ram, size: 16, features: features, start: 30)
    let kick = try EventDescriptor()
    device.negotiate(features)
    device.startQueue(driver.config(index: 2, memory: try ram.memory(), kick: kick))
    for round in 0..<100 {
      let command: [UInt8] = [0, 0, UInt8(round & 1)]
      let (place, answer) = (ram.allocate(3), ram.allocate(1))
      ram.write(command, at: place)
      ram.write([0xaa], at: answer)
      // Header and data apart, as Linux has them; now and then in an indirect table.
      driver.add(
        [
          .init(place, 2), .init(GuestAddress(place.value + 2), 1),
          .init(answer, 1, writable: true),
        ], direct: round % 3 == 0 ? 0 : nil)
      if driver.publish() { kick.signal() }
      device.serveControlQueue()
      #expect(try driver.nextUsed()?.length == 1, "round \(round)")
      #expect(ram.read(answer, count: 1) == [ok])
      #expect(device.controlState?.receive.promiscuous == (round & 1 == 1))
    }
    #expect(device.stopQueue(2) != nil)
  }

  /// Its control queue is served when the test says so.
  private func unserved() throws -> NetDevice {
    try NetDevice(
      port: NullPort(queueCount: 1), queuePairs: 1, cpus: [],
      control: ControlOptions(address: own)
    ) { _ in }
  }

  @Test("a kick descriptor that is readable for ever does not keep the control thread busy")
  func hungUp() throws {
    let device = try unserved()
    defer { device.stop() }
    let ram = try GuestRAM(bytes: 1 << 20)
    let features: VirtioFeatures = [.version1, .ctrlVq, .ctrlRx]
    let driver = DriverQueue(in: ram, size: 16, features: features)
    let (kick, other) = try FrontEndSocket.pair()
    close(other)
    let hungUp = EventDescriptor(adopting: OwnedDescriptor(adopting: kick))
    device.negotiate(features)
    device.startQueue(driver.config(index: 2, memory: try ram.memory(), kick: hungUp))
    var poller = pollfd(fd: device.controlDescriptor!, events: Int16(POLLIN), revents: 0)
    #expect(unsafe poll(&poller, 1, 0) == 1)
    device.serveControlQueue()
    #expect(unsafe poll(&poller, 1, 0) == 0)
    #expect(device.stopQueue(2) != nil)
  }
}
