import GuestMemory
import Linux
import Testing
import Virtqueue

@testable import VhostUser

@Suite("Memory table")
struct MemoryTableTests {
  private func running() throws -> ScriptedFrontEnd {
    let front = try ScriptedFrontEnd()
    try front.negotiate()
    try front.shareMemory()
    try front.setUp(0)
    try front.setUp(1)
    _ = front.device.takeEvents()
    front.device.progress = 2
    return front
  }

  @Test("a new table stops all rings, replaces the memory and starts them where they were")
  func replace() throws {
    let front = try running()
    let before = front.back.memory
    let low = try memoryFile(1 << 20)
    let high = try memoryFile(1 << 20)
    #expect(
      try front.acknowledged(
        5, table([.megabyte, .secondMegabyte]), descriptors: [low.raw, high.raw]) == 0)
    #expect(
      front.device.takeEvents() == [
        .stop(0), .stop(1), .start(0, base: 2, enabled: true), .start(1, base: 2, enabled: true),
      ])
    #expect(front.back.memory !== before)
    #expect(front.device.running[0]?.memory === front.back.memory)
    #expect(front.device.running[0]?.memory.regions.count == 2)
  }

  @Test("a table that is refused leaves the rings with the old one")
  func refused() throws {
    let front = try running()
    let before = front.back.memory
    let short = try memoryFile(4096)
    #expect(try front.acknowledged(5, table([.megabyte]), descriptors: [short.raw]) == 1)
    #expect(front.warnings.last!.contains("beyond its file"))
    let file = try memoryFile(1 << 20)
    #expect(
      try front.acknowledged(
        5, table([.megabyte, .megabyte]), descriptors: [file.raw, file.raw]) == 1)
    #expect(front.warnings.last!.contains("overlap"))
    #expect(front.back.memory === before)
    #expect(front.device.running[1]?.memory === before)
  }

  @Test("a region is added and removed under traffic, and what stayed is not mapped again")
  func slots() throws {
    let front = try running()
    let first = front.back.memory.regions[0]
    let file = try memoryFile(1 << 20)
    #expect(
      try front.acknowledged(
        37, bytes(0) + region(.secondMegabyte), descriptors: [file.raw]) == 0)
    #expect(
      front.device.takeEvents() == [
        .stop(0), .stop(1), .start(0, base: 2, enabled: true), .start(1, base: 2, enabled: true),
      ])
    #expect(front.back.memory.regions.map(\.description) == [.megabyte, .secondMegabyte])
    #expect(front.back.memory.regions[0] === first)

    #expect(try front.acknowledged(38, bytes(0) + region(.secondMegabyte)) == 0)
    #expect(front.back.memory.regions.map(\.description) == [.megabyte])
    #expect(try front.acknowledged(38, bytes(0) + region(.secondMegabyte)) == 1)
    #expect(front.warnings.last!.contains("no memory region"))
    #expect(front.device.running[0]?.base.rawValue == 6, "a refused request restarts them too")
  }

  @Test("REM_MEM_REG closes the descriptor that some front-ends send, and ignores the offset")
  func removeWithDescriptor() throws {
    let front = try running()
    let pipe = try Pipe()
    var wanted = MemoryRegionDescription.megabyte
    wanted.offset = 99
    #expect(
      try front.acknowledged(
        38, bytes(0) + region(wanted), descriptors: [pipe.writeEnd!.raw]) == 0)
    pipe.writeEnd = nil
    #expect(pipe.isClosed)
    #expect(front.back.memory.regions.isEmpty)
  }

  @Test("a ring whose memory has gone is left to the device, and the connection lives")
  func vanished() throws {
    let front = try running()
    #expect(try front.acknowledged(38, bytes(0) + region(.megabyte)) == 0)
    #expect(front.back.startedRings == [0, 1])
    #expect(front.device.running[0]?.memory.regions.isEmpty == true)

    // The device finds that it cannot run; what it says when it is stopped is nothing.
    front.device.faulty = [0, 1]
    let file = try memoryFile(1 << 20)
    _ = front.device.takeEvents()
    #expect(
      try front.acknowledged(37, bytes(0) + region(.megabyte), descriptors: [file.raw]) == 0)
    #expect(
      front.device.takeEvents() == [
        .stop(0), .stop(1), .start(0, base: 2, enabled: true), .start(1, base: 2, enabled: true),
      ], "indices are what they were")
    #expect(!front.back.hasEnded)
  }

  @Test("the region after the 509th is refused")
  func tooMany() throws {
    let front = try ScriptedFrontEnd()
    try front.negotiate()
    let file = try memoryFile(4096)
    func slot(_ i: UInt64) -> [UInt8] { bytes(0, i << 12, 4096, 0x7000_0000_0000 + i << 12, 0) }
    for i in 0..<509 as Range<UInt64> {
      #expect(try front.acknowledged(37, slot(i), descriptors: [file.raw]) == 0)
    }
    #expect(try front.acknowledged(37, slot(509), descriptors: [file.raw]) == 1)
    #expect(front.back.memory.regions.count == 509)
    front.hangUp()
    front.run()
    #expect(front.back.memory.regions.isEmpty)
  }
}
