import CLinux
import Glibc
import GuestMemory
import Linux
import Testing
import Virtqueue

@testable import VhostUser

@Suite(
  "Postcopy migration",
  .enabled(if: UserFaults.areSupported, "no userfaultfd for shared memory"))
struct PostcopyTests {
  /// A front-end that has advised and listens.
  private func listening() throws -> ScriptedFrontEnd {
    let device = RecordingDevice()
    device.hasPostcopy = true
    let front = try ScriptedFrontEnd(device)
    try front.negotiate()
    let reply = try front.send(28)
    #expect(reply == [], "a header alone")
    #expect(front.lastDescriptor != nil)
    #expect(try front.acknowledged(29) == 0)
    return front
  }

  // The descriptor gives a front-end a hold on the whole process.
  @Test("a device that was not told to offer it has none of it, whatever a front-end sets")
  func notOffered() throws {
    let front = try ScriptedFrontEnd()
    #expect(try front.number(15)! & ProtocolFeatures.pagefault.rawValue == 0)
    try front.negotiate(protocol: [.replyAck, .configureMemSlots, .pagefault])
    #expect(!front.back.protocolFeatures.contains(.pagefault))
    #expect(try front.send(28) == [], "a header alone, for who waits for it")
    #expect(front.lastDescriptor == nil && front.back.postcopy == nil)
    #expect(front.warnings.last!.contains("PAGEFAULT"))
    #expect(try front.acknowledged(29) == 1)
    #expect(try front.send(30) == bytes(1))
  }

  @Test("ADVISE answers a descriptor, LISTEN and END are acknowledged")
  func messages() throws {
    let front = try listening()
    #expect(try front.send(30) == bytes(0))
    #expect(front.back.postcopy == nil)
    #expect(try front.acknowledged(29) == 1, "not advised")
    #expect(front.warnings.last!.contains("POSTCOPY_ADVISE"))
  }

  @Test("LISTEN again and again watches each region once, and those of a former table not at all")
  func listensAgain() throws {
    let front = try listening()
    try front.shareMemory()
    for _ in 0..<3 { #expect(try front.acknowledged(29) == 0) }
    #expect(front.back.postcopy?.memory.regionCount == 1)
    for _ in 0..<3 { try front.shareMemory() }
    #expect(front.back.postcopy?.memory.regionCount == 1)
    #expect(try front.send(30) == bytes(0))
  }

  @Test("regions are answered with our addresses, and rings wait for the acknowledgement")
  func addRegion() throws {
    let front = try listening()
    let file = try memoryFile(1 << 20)
    let reply = try front.send(37, bytes(0) + region(.megabyte), descriptors: [file.raw])
    var expected = MemoryRegionDescription.megabyte
    expected.frontEnd = FrontEndAddress(front.back.memory.regions[0].addressHere)
    #expect(reply == bytes(0) + region(expected))
    try front.setUp(0)
    #expect(front.back.startedRings == [], "faults cannot be served yet")
    #expect(try front.acknowledged(37, bytes(1)) == 1, "not an acknowledgement")
    #expect(try front.acknowledged(38, bytes(0)) == 1, "REM_MEM_REG is never one")
    #expect(front.back.startedRings == [])
    #expect(try front.send(37, bytes(0)) == nil)
    try front.send(18, state(0, 1))
    #expect(front.back.startedRings == [0])
    // A page that is touched is reported by our address.
    let address = front.back.memory.regions[0].addressHere
    let toucher = try PinnedThread(name: "toucher") {
      // A load that nobody uses would be left out of an optimised test.
      unsafe UnsafeMutableRawPointer(bitPattern: Int(address))!.storeBytes(of: 1, as: UInt8.self)
    }
    #expect(clinux_userfault_read(front.lastDescriptor!.raw) == address)
    #expect(try front.send(30) == bytes(0))
    toucher.join()
  }

  @Test("a whole table is answered in the same way, and acknowledged by eight bytes of zeros")
  func table() throws {
    let front = try listening()
    let low = try memoryFile(1 << 20)
    let high = try memoryFile(1 << 20)
    let reply = try #require(
      try front.send(
        5, VhostUserTests.table([.megabyte, .secondMegabyte]), descriptors: [low.raw, high.raw]))
    #expect(reply.count == 8 + 2 * 32)
    #expect(front.back.postcopy?.awaitsAcknowledgement == true)
    #expect(try front.send(5, bytes(0)) == nil)
    #expect(front.back.postcopy?.awaitsAcknowledgement == false)
    #expect(front.back.memory.regions.count == 2)
  }

  @Test("a front-end that leaves in the middle does not hold the session's end")
  func leaves() throws {
    let front = try listening()
    let file = try memoryFile(1 << 20)
    try front.send(37, bytes(0) + region(.megabyte), descriptors: [file.raw])
    // A ring would be stopped before its memory goes.
    let region = front.back.memory.regions[0]
    let toucher = try PinnedThread(name: "toucher") {
      _ = unsafe region.base.load(as: UInt8.self)
    }
    usleep(10_000)
    front.hangUp()
    front.run()
    #expect(front.back.hasEnded)
    toucher.join()
  }

  @Test("outside of a migration a region of eight bytes is refused")
  func notListening() throws {
    let front = try ScriptedFrontEnd()
    try front.negotiate()
    #expect(try front.acknowledged(37, bytes(0)) == 1)
    #expect(try front.acknowledged(38, bytes(0)) == 1)
    #expect(try front.acknowledged(37, bytes(0) + region(.megabyte)) == 1, "no descriptor")
  }
}
