import GuestMemory
import Linux
import Testing
import Virtqueue

@testable import VhostUser

@Suite("Rings")
struct RingTests {
  /// Negotiated, with memory, nothing recorded yet.
  private func ready(_ features: VirtioFeatures = [.version1]) throws -> ScriptedFrontEnd {
    let front = try ScriptedFrontEnd()
    try front.negotiate(features)
    try front.shareMemory()
    _ = front.device.takeEvents()
    return front
  }

  @Test("a ring starts with its kick when size and addresses are known, and is enabled after")
  func start() throws {
    let front = try ready()
    try front.send(8, state(0, 256))
    try front.send(10, state(0, 5))
    try front.send(9, addresses(0))
    #expect(front.device.takeEvents() == [])
    let kick = try EventDescriptor()
    try front.send(12, bytes(0), descriptors: [kick.raw])
    #expect(front.device.takeEvents() == [.start(0, base: 5, enabled: false)])
    try front.send(18, state(0, 1))
    #expect(front.device.takeEvents() == [.stop(0), .start(0, base: 5, enabled: true)])

    let config = front.device.running[0]!
    #expect(config.size == 256)
    #expect(config.descriptorTable == FrontEndAddress(0x7000_0000_0000))
    #expect(config.usedRing == FrontEndAddress(0x7000_0000_2000))
    #expect(config.availRing == FrontEndAddress(0x7000_0000_1000))
    #expect(config.features == [.version1])
    #expect(config.memory.regions.count == 1)
    #expect(config.kick != nil)
    #expect(config.call == nil)
  }

  @Test("a ring whose kick came first starts when the last of the rest is known")
  func kickFirst() throws {
    let front = try ready()
    try front.send(12, bytes(0x101))
    try front.send(8, state(1, 256))
    #expect(front.device.takeEvents() == [])
    try front.send(9, addresses(1))
    #expect(front.device.takeEvents() == [.start(1, base: 0, enabled: false)])
    #expect(front.device.running[1]?.kick == nil, "bit 8: the device polls")
  }

  @Test("without PROTOCOL_FEATURES every ring is enabled from the start")
  func enabledWithoutBit30() throws {
    let front = try ready()
    try front.send(2, bytes(VirtioFeatures.version1.rawValue))
    try front.setUp(0, enable: false)
    #expect(front.device.running[0]?.isEnabled == true)
  }

  @Test("with PROTOCOL_FEATURES a ring is disabled until it is enabled, whatever its kick does")
  func disabledWithBit30() throws {
    let front = try ready()
    try front.setUp(0, enable: false)
    #expect(front.device.running[0]?.isEnabled == false)
    try front.send(18, state(0, 1))
    try front.send(12, bytes(0x100))
    #expect(front.device.running[0]?.isEnabled == true)
    #expect(try front.acknowledged(18, state(0, 2)) == 1)
  }

  @Test("GET_VRING_BASE stops a ring and gives its index; only a new kick starts it again")
  func takeBase() throws {
    let front = try ready()
    try front.setUp(0, base: 65_530)
    _ = front.device.takeEvents()
    front.device.progress = 10
    #expect(try front.send(11, state(0, 0)) == state(0, 4))
    #expect(front.device.takeEvents() == [.stop(0)])
    try front.send(18, state(0, 1))
    try front.send(9, addresses(0))
    #expect(front.device.takeEvents() == [])
    #expect(try front.send(11, state(0, 0)) == state(0, 4), "asked again, it says the same")
    try front.send(12, bytes(0x100))
    #expect(front.device.takeEvents() == [.start(0, base: 4, enabled: true)])
  }

  @Test("GET_VRING_BASE of a ring that never started gives what was set")
  func takeBaseOfStopped() throws {
    let front = try ready()
    try front.send(10, state(3, 9))
    #expect(try front.send(11, state(3, 0)) == state(3, 9))
    #expect(front.device.takeEvents() == [])
  }

  @Test(
    "a change to a running ring stops it and starts it where it was",
    arguments: [9, 12, 13, 14, 18] as [UInt32])
  func changeWhileRunning(request: UInt32) throws {
    let front = try ready()
    try front.setUp(0, base: 100)
    try front.setUp(1)
    _ = front.device.takeEvents()
    front.device.progress = 3
    let event = try EventDescriptor()
    switch request {
    case 9: try front.send(9, addresses(0))
    case 18: try front.send(18, state(0, 0))
    default: try front.send(request, bytes(0), descriptors: [event.raw])
    }
    #expect(
      front.device.takeEvents()
        == [.stop(0), .start(0, base: 103, enabled: request != 18)])
    #expect(front.back.startedRings == [0, 1])
  }

  @Test("a refused change leaves the ring as it was, running")
  func refusedChange() throws {
    let front = try ready()
    try front.setUp(0)
    for size in [0, 3, 65_536, .max] as [UInt32] {
      #expect(try front.acknowledged(8, state(0, size)) == 1)
    }
    #expect(try front.acknowledged(10, state(0, 65_536)) == 1)
    #expect(front.device.running[0]?.size == 256)
    #expect(front.device.running[0]?.base.rawValue == 0)
  }

  @Test("a packed ring has any size to 32768, and both halves of its base")
  func packed() throws {
    let front = try ready([.version1, .ringPacked])
    for size in [1, 3, 1000, 32767, 32768] as [UInt32] {
      #expect(try front.acknowledged(8, state(0, size)) == 0)
    }
    for size in [0, 32769, .max] as [UInt32] {
      #expect(try front.acknowledged(8, state(0, size)) == 1)
    }
    try front.send(12, bytes(0x101))
    try front.send(8, state(1, 1000))
    try front.send(9, addresses(1))
    #expect(
      front.device.takeEvents() == [.start(1, base: 0x8000_8000, enabled: false)],
      "a fresh ring begins with both wrap counters 1")
    try front.setUp(0, base: 0x8063_0063)
    #expect(front.device.running[0]?.base.rawValue == 0x8063_0063)
  }

  @Test("every power of two to 32768 is a ring size")
  func sizes() throws {
    let front = try ready()
    for shift in 0...15 { #expect(try front.acknowledged(8, state(0, 1 << shift)) == 0) }
  }

  @Test("a new call descriptor is written once, so that no interrupt is lost")
  func callIsWritten() throws {
    let front = try ready()
    try front.setUp(0)
    let call = try EventDescriptor()
    try front.send(13, bytes(0), descriptors: [call.raw])
    #expect(call.drain())
    try front.send(13, bytes(0x100))
    #expect(front.device.running[0]?.call == nil)
  }

  @Test("a ring that does not exist is refused, and where an answer is due the connection ends")
  func noSuchRing() throws {
    let front = try ready()
    let event = try EventDescriptor()
    #expect(try front.acknowledged(8, state(4, 256)) == 1)
    #expect(try front.acknowledged(12, bytes(4), descriptors: [event.raw]) == 1)
    #expect(try front.acknowledged(18, state(0xffff_ffff, 1)) == 1)
    #expect(front.warnings.last!.contains("there are 4 rings"))
    #expect(!front.back.hasEnded)
    #expect(try front.send(11, state(4, 0)) == nil)
    #expect(front.back.hasEnded)
  }

  @Test("new features restart the rings with them")
  func featuresWhileRunning() throws {
    let front = try ready()
    try front.setUp(0, base: 8)
    _ = front.device.takeEvents()
    front.device.progress = 1
    try front.send(
      2, bytes(VirtioFeatures([.version1, .ringEventIdx, .protocolFeatures]).rawValue))
    #expect(
      front.device.takeEvents()
        == [.stop(0), .negotiate([.version1, .ringEventIdx]), .start(0, base: 9, enabled: true)])
    #expect(front.device.running[0]?.features == [.version1, .ringEventIdx])
  }

  @Test("a guest that boots from legacy firmware into a modern driver starts afresh")
  func rebootIntoModern() throws {
    let front = try ScriptedFrontEnd()
    try front.negotiate([])
    try front.shareMemory()
    try front.setUp(0)
    try front.setUp(1)
    #expect(front.device.running[0]?.features == [])
    front.device.progress = 40
    for ring in 0...1 { #expect(try front.send(11, state(ring, 0)) == state(ring, 40)) }
    #expect(front.device.running.isEmpty)
    front.device.progress = 0

    try front.send(
      2, bytes(VirtioFeatures([.version1, .mrgRxbuf, .protocolFeatures]).rawValue))
    try front.shareMemory()
    for ring in 0...3 { try front.setUp(ring) }
    #expect(front.back.startedRings == [0, 1, 2, 3])
    for ring in 0...3 {
      #expect(front.device.running[ring]?.features == [.version1, .mrgRxbuf])
      #expect(front.device.running[ring]?.base.rawValue == 0)
    }
    #expect(front.summaries.count == 2)
  }
}
