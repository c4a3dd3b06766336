import Glibc
import GuestMemory
import Linux
import Testing
import Virtqueue

@testable import VhostUser

@Suite("Live migration")
struct MigrationTests {
  private func running() throws -> ScriptedFrontEnd {
    let device = RecordingDevice()
    device.offeredFeatures.insert(.logAll)
    let front = try ScriptedFrontEnd(device)
    try front.negotiate()
    try front.shareMemory()
    try front.setUp(0)
    try front.setUp(1)
    _ = device.takeEvents()
    device.progress = 3
    return front
  }

  private static let plain: VirtioFeatures = [.version1, .mrgRxbuf, .protocolFeatures]
  /// Bytes of log for `.megabyte`.
  private static let needed: UInt64 = 32

  private func setLog(
    _ front: ScriptedFrontEnd, size: UInt64 = MigrationTests.needed, offset: UInt64 = 0
  ) throws -> [UInt8]? {
    let file = try memoryFile(4096)
    return try front.send(6, bytes(size, offset), descriptors: [file.raw])
  }

  private func loggedAddresses(_ ring: Int) -> [UInt8] {
    var payload = addresses(ring)
    payload[4] = 1
    payload.replaceSubrange(32..<40, with: bytes(0x4000))
    return payload
  }

  @Test("logging is switched on and off as QEMU does it, and rings go on where they were")
  func onAndOff() throws {
    let front = try running()
    #expect(front.device.running[0]?.log == nil)
    #expect(try setLog(front) == bytes(0), "answered although nobody asked for a reply")
    #expect(front.device.running[0]?.log == nil, "not before LOG_ALL")
    let features = MigrationTests.plain.union(.logAll)
    #expect(try front.acknowledged(2, bytes(features.rawValue)) == 0)
    #expect(front.device.running[0]?.log?.buffers == true)
    #expect(front.device.running[0]?.log?.usedRing == nil)
    #expect(try front.acknowledged(9, loggedAddresses(0)) == 0)
    #expect(front.device.running[0]?.log?.usedRing == GuestAddress(0x4000))
    #expect(front.device.running[1]?.log?.usedRing == nil)
    #expect(front.device.running[0]?.base.rawValue == 9, "restarted three times")
    _ = front.device.takeEvents()

    #expect(try front.acknowledged(2, bytes(MigrationTests.plain.rawValue)) == 0)
    #expect(try front.acknowledged(9, addresses(0)) == 0)
    #expect(front.device.running[0]?.log == nil)
    #expect(front.back.migration.log == nil, "unmapped")
    #expect(front.device.running[0]?.base.rawValue == 15)
    #expect(
      !front.device.takeEvents().contains {
        if case .negotiate = $0 { true } else { false }
      }, "the driver's features have not changed")
  }

  @Test("a larger log replaces the one in use before memory is added")
  func larger() throws {
    let front = try running()
    _ = try setLog(front)
    let features = MigrationTests.plain.union(.logAll)
    #expect(try front.acknowledged(2, bytes(features.rawValue)) == 0)
    let before = front.back.migration.log
    #expect(try setLog(front, size: 64) == bytes(0))
    #expect(front.device.running[0]?.log?.log !== before)
    let file = try memoryFile(1 << 20)
    #expect(
      try front.acknowledged(37, bytes(0) + region(.secondMegabyte), descriptors: [file.raw]) == 0)
    #expect(front.warnings.isEmpty)
  }

  @Test("memory that the log does not reach is taken, with a warning")
  func notCovered() throws {
    let front = try running()
    _ = try setLog(front)
    try front.send(2, bytes(MigrationTests.plain.union(.logAll).rawValue))
    let file = try memoryFile(1 << 20)
    #expect(
      try front.acknowledged(37, bytes(0) + region(.secondMegabyte), descriptors: [file.raw]) == 0)
    #expect(front.warnings.last!.contains("log of 32 bytes"))
  }

  @Test("a log that is too small is refused, and so is LOG_ALL then")
  func tooSmall() throws {
    let front = try running()
    #expect(try setLog(front, size: MigrationTests.needed - 1) == bytes(1))
    #expect(front.warnings.last!.contains("log of 31 bytes, but the memory table needs 32"))
    let features = MigrationTests.plain.union(.logAll)
    #expect(try front.acknowledged(2, bytes(features.rawValue)) == 1)
    #expect(front.back.features == MigrationTests.plain)
    #expect(try setLog(front) == bytes(0))
    #expect(try front.acknowledged(2, bytes(features.rawValue)) == 0)
  }

  @Test("a log that is not there is refused: no descriptor, beyond its file, overflow")
  func impossible() throws {
    let front = try running()
    #expect(try front.send(6, bytes(32, 0)) == bytes(1))
    #expect(try setLog(front, size: 4097) == bytes(1))
    #expect(try setLog(front, size: 32, offset: .max) == bytes(1))
    #expect(try setLog(front, size: 0) == bytes(1))
    #expect(front.back.migration.log == nil)
    #expect(!front.back.hasEnded)
  }

  @Test("behind a vIOMMU there is no log, and LOG_ALL is refused")
  func iommu() throws {
    let front = try running()
    front.back.features.insert(.accessPlatform)
    #expect(try setLog(front) == bytes(1))
    #expect(front.warnings.last!.contains("vIOMMU"))
    let features = MigrationTests.plain.union(.logAll)
    #expect(try front.acknowledged(2, bytes(features.rawValue)) == 1)
  }

  @Test("SET_LOG_BASE needs LOG_SHMFD")
  func notNegotiated() throws {
    let front = try ScriptedFrontEnd()
    try front.negotiate(protocol: .replyAck)
    #expect(try setLog(front) == nil, "without the feature nobody waits for an answer")
    #expect(front.warnings.last!.contains("LOG_SHMFD"))
  }

  @Test("SET_LOG_FD is written to from the next log on, and in the one that is in use")
  func event() throws {
    let front = try running()
    _ = try setLog(front)
    try front.send(2, bytes(MigrationTests.plain.union(.logAll).rawValue))
    let event = try EventDescriptor()
    #expect(try front.acknowledged(7, descriptors: [event.raw]) == 0)
    front.device.running[0]?.log?.log.signal()
    #expect(event.drain())
    _ = try setLog(front)
    front.device.running[0]?.log?.log.signal()
    #expect(event.drain())
  }

  @Test("pages that were written beyond the log are named at its end")
  func missed() throws {
    let front = try running()
    _ = try setLog(front)
    try front.send(2, bytes(MigrationTests.plain.union(.logAll).rawValue))
    front.back.migration.log?.view.mark(1 << 40, length: 8192)
    try front.send(2, bytes(MigrationTests.plain.rawValue))
    #expect(front.warnings.last!.contains("2 pages were written beyond the end of the log"))
  }

  @Test("the session's end releases the log")
  func end() throws {
    let front = try running()
    _ = try setLog(front)
    weak let log = front.back.migration.log
    #expect(log != nil)
    front.hangUp()
    front.run()
    #expect(log == nil)
  }
}
