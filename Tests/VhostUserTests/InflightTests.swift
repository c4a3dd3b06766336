import CLinux
import Glibc
import GuestMemory
import Linux
import Testing
import Virtqueue

@testable import VhostUser

@Suite("In-flight areas and guest addresses")
struct InflightRequestTests {
  private func description(
    size: UInt64, offset: UInt64 = 0, queues: UInt64 = 4, entries: UInt64 = 256
  ) -> [UInt8] { bytes(size, offset, queues | entries << 16) }

  private func area(_ front: ScriptedFrontEnd, _ ring: Int) -> InflightArea? {
    front.device.running[ring]?.inflight
  }

  @Test("GET_INFLIGHT_FD hands out sealed memory of the size that the rings need")
  func get() throws {
    let front = try ScriptedFrontEnd()
    try front.negotiate()
    let reply = try #require(try front.send(31, description(size: 0)))
    #expect(reply == description(size: 4 * 4160))
    let number = try #require(front.lastDescriptor)
    var status = stat()
    #expect(unsafe fstat(number.raw, &status) == 0 && status.st_size == 4 * 4160)
    #expect(ftruncate(number.raw, 0) != 0)

    // Packed entries are larger; a C front-end may send 20 bytes.
    front.device.offeredFeatures.insert(.ringPacked)
    try front.negotiate([.version1, .ringPacked])
    let packed = try #require(try front.send(31, Array(description(size: 0).prefix(20))))
    #expect(packed == description(size: 4 * 8256))
  }

  @Test("GET_INFLIGHT_FD for a device that this is not is answered with an empty area")
  func getWrong() throws {
    let front = try ScriptedFrontEnd()
    try front.negotiate()
    let none = [UInt8](repeating: 0, count: 24)
    #expect(try front.send(31, description(size: 0, queues: 5)) == none)
    #expect(try front.send(31, description(size: 0, queues: 0)) == none)
    #expect(try front.send(31, description(size: 0, entries: 0)) == none)
    #expect(front.warnings.count == 3 && front.warnings[0].contains("the device has 1 to 4"))
  }

  @Test("an area goes to the rings with SET_INFLIGHT_FD, and is theirs until another one comes")
  func set() throws {
    let front = try ScriptedFrontEnd()
    try front.negotiate()
    try front.shareMemory()
    try front.setUp(1)
    #expect(area(front, 1) == nil)
    _ = try front.send(31, description(size: 0))
    let file = try #require(front.lastDescriptor)
    #expect(area(front, 1) == nil)
    _ = front.device.takeEvents()
    #expect(
      try front.acknowledged(32, description(size: 4 * 4160), descriptors: [file.raw]) == 0)
    #expect(front.device.takeEvents() == [.stop(1), .start(1, base: 0, enabled: true)])
    #expect(area(front, 1)?.entryCount == 256)
    let first = area(front, 1)
    #expect(
      try front.acknowledged(32, description(size: 4 * 4160), descriptors: [file.raw]) == 0)
    #expect(area(front, 1) !== first)
    front.hangUp()
    front.run()
    #expect(front.back.inflight == nil)
  }

  @Test("SET_INFLIGHT_FD with an area of the wrong shape is refused, and the former one stays")
  func setWrong() throws {
    let front = try ScriptedFrontEnd()
    try front.negotiate()
    try front.shareMemory()
    try front.setUp(0)
    let file = try memoryFile(4 * 4160)
    #expect(
      try front.acknowledged(32, description(size: 4 * 4160), descriptors: [file.raw]) == 0)
    let former = try #require(area(front, 0))
    let wrong = [
      description(size: 4 * 4160, queues: 5), description(size: 4 * 4160, entries: 0),
      description(size: 4 * 4160, entries: 512), description(size: 4159, queues: 1),
      description(size: 4 * 4160, offset: 8), description(size: .max, offset: .max),
    ]
    for payload in wrong {
      #expect(try front.acknowledged(32, payload, descriptors: [file.raw]) == 1)
    }
    #expect(front.warnings.count == wrong.count)
    #expect(try front.acknowledged(32, description(size: 4 * 4160)) == 1)
    #expect(try front.acknowledged(32, [0], descriptors: [file.raw]) == 1)
    #expect(area(front, 0) === former)
    #expect(front.outcome == nil)
  }

  @Test("a reset of the device forgets what an area says")
  func reset() throws {
    let front = try ScriptedFrontEnd()
    try front.negotiate()
    let file = try memoryFile(4 * 4160)
    let mapping = try Mapping(length: 4096, descriptor: file.raw, flags: CInt(MAP_SHARED))
    #expect(
      try front.acknowledged(32, description(size: 4 * 4160), descriptors: [file.raw]) == 0)
    unsafe mapping.base.storeBytes(of: 1, toByteOffset: 8, as: UInt16.self)
    #expect(try front.acknowledged(34) == 0)
    #expect(unsafe mapping.base.load(fromByteOffset: 8, as: UInt16.self) == 0)
  }

  @Test("GET_VRING_BASE_INFLIGHT counts with INFLIGHT_SHMFD only")
  func baseInflight() throws {
    let front = try ScriptedFrontEnd()
    try front.negotiate(protocol: [.replyAck, .getVringBaseInflight])
    #expect(front.back.protocolFeatures == [.replyAck])
    #expect(try front.acknowledged(32, description(size: 0)) == 1)
    try front.negotiate(protocol: [.inflightShmfd, .getVringBaseInflight])
    #expect(front.back.protocolFeatures == [.inflightShmfd, .getVringBaseInflight])
  }

  @Test("with GPA_ADDRESSES rings are found by guest addresses")
  func guestAddresses() throws {
    let front = try ScriptedFrontEnd()
    try front.negotiate(protocol: [.replyAck, .gpaAddresses, .configureMemSlots])
    let file = try memoryFile(1 << 20)
    var nowhere = MemoryRegionDescription.secondMegabyte
    nowhere.frontEnd = FrontEndAddress(0)
    #expect(try front.acknowledged(5, table([.megabyte]), descriptors: [file.raw]) == 0)
    #expect(
      try front.acknowledged(37, bytes(0) + region(nowhere), descriptors: [file.raw]) == 0)
    let memory = front.back.memory
    for guest in [0, 1 << 20] as [UInt64] {
      let ring = unsafe memory.ring(at: FrontEndAddress(guest), length: 64)
      #expect(unsafe ring != nil)
    }
    let former = MemoryRegionDescription.megabyte.frontEnd
    #expect(unsafe memory.ring(at: former, length: 64) == nil)
    #expect(try front.acknowledged(38, bytes(0) + region(nowhere)) == 0)
  }
}
