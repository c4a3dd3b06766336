// What one request costs the control thread that a front-end sends with the worst in mind: everything
// else waits meanwhile.  Limits are far above what is measured, in a debug build, and far below what
// work without a bound takes.
import Glibc
import GuestDriver
import GuestMemory
import Linux
import Testing
import Virtqueue

@testable import VhostUser

@Suite("What one request costs")
struct RequestCostTests {
  private static let page: UInt64 = 4096
  private static let frontEnd: UInt64 = 0x7000_0000_0000
  private static let pieces = UInt64(GuestMemory.maximumRegions - 1)

  private func translating(_ device: RecordingDevice) throws -> ScriptedFrontEnd {
    device.offeredFeatures.insert(.accessPlatform)
    let front = try ScriptedFrontEnd(device)
    try front.negotiate([.version1, .accessPlatform])
    return front
  }

  private func update(_ iova: UInt64, _ size: UInt64, to frontEnd: UInt64) -> [UInt8] {
    bytes(iova, size, frontEnd, 3 | UInt64(IotlbMessage.update) << 8)
  }

  @Test("REM_MEM_REG, when each translation is in as many pieces then as there are regions")
  func splitTranslations() throws {
    let front = try translating(RecordingDevice())
    let (page, pieces) = (RequestCostTests.page, RequestCostTests.pieces)
    let file = try memoryFile(Int(3 * pieces * page))
    func description(_ guest: UInt64, _ count: UInt64, _ frontEnd: UInt64, _ offset: UInt64)
      -> MemoryRegionDescription
    {
      MemoryRegionDescription(
        guest: GuestAddress(guest * page), size: count * page,
        frontEnd: FrontEndAddress(RequestCostTests.frontEnd + frontEnd * page),
        offset: offset * page)
    }
    let whole = description(0, pieces, 0, 0)
    #expect(try front.acknowledged(37, bytes(0) + region(whole), descriptors: [file.raw]) == 0)
    for i in 0..<pieces {
      let one = description(pieces + i, 1, i, 2 * (pieces - i))
      #expect(try front.acknowledged(37, bytes(0) + region(one), descriptors: [file.raw]) == 0)
    }
    // The first and the last by a message, the others without: each is a new table for the device.
    let size = pieces * page
    #expect(try front.send(22, update(0, size, to: RequestCostTests.frontEnd)) == bytes(0))
    for number in 1..<UInt64(TranslationTable.capacity) - 1 {
      try front.back.iotlb?.table.update(
        IOVirtualAddress(number * (size + page)), size: size,
        to: FrontEndAddress(RequestCostTests.frontEnd), permission: 3, memory: front.back.memory)
    }
    let last = UInt64(TranslationTable.capacity - 1) * (size + page)
    #expect(try front.send(22, update(last, size, to: RequestCostTests.frontEnd)) == bytes(0))
    #expect(front.back.iotlb?.table.count == TranslationTable.capacity)

    var reply: UInt64?
    let cost = try ThreadTime.milliseconds {
      reply = try front.acknowledged(38, bytes(0) + region(whole))
    }
    #expect(reply == 0)
    #expect(cost < 1500)
    let table = try #require(front.back.iotlb?.table)
    #expect(table.count <= TranslationTable.capacity)
    #expect(table.firstMiss(IOVirtualAddress(last), size: size, access: .write) == nil)
  }

  @Test("rings that start one after the other share what they know of translations")
  func oneSnapshot() throws {
    let device = RecordingDevice()
    device.queuePairCount = 8
    let front = try translating(device)
    try front.shareMemory()
    let everything = update(RequestCostTests.frontEnd, 1 << 20, to: RequestCostTests.frontEnd)
    #expect(try front.send(22, everything) == bytes(0))
    for ring in 0..<16 { try front.setUp(ring) }
    func tables() throws -> [Translations] {
      try (0..<16).map { try #require(device.running[$0]?.translation?.table) }
    }
    let file = try memoryFile(1 << 20)
    try front.send(5, table([.megabyte]), descriptors: [file.raw])
    let first = try tables()
    #expect(first.allSatisfy { $0 === first[0] })
    // And never one of before.
    try front.send(5, table([.megabyte]), descriptors: [file.raw])
    let second = try tables()
    #expect(second.allSatisfy { $0 === second[0] && $0 !== first[0] })
    #expect(try front.send(22, update(0, 4096, to: RequestCostTests.frontEnd)) == bytes(0))
    try front.setUp(0)
    #expect(try tables()[0] !== second[0])
  }

  @Test("a translation that there is not, and that as many chains wait for as may")
  func refusedForMany() throws {
    let device = RecordingDevice()
    let front = try translating(device)
    try front.shareMemory()
    var ends: [CInt] = [-1, -1]
    try checkedCall {
      unsafe socketpair(AF_UNIX, CInt(SOCK_STREAM.rawValue | SOCK_CLOEXEC.rawValue), 0, &ends)
    }
    let own = OwnedDescriptor(adopting: ends[0])
    let lent = OwnedDescriptor(adopting: ends[1])
    try front.send(21, descriptors: [lent.raw])
    func miss(_ number: Int, chain: Int = 0) -> TranslationMiss {
      var miss = TranslationMiss(
        address: IOVirtualAddress(UInt64(number) * RequestCostTests.page), access: .read)
      miss.chain = UInt64(chain)
      return miss
    }
    let later = (1...Iotlb.mostLater).map { miss(0, chain: $0) }
    front.back.iotlb?.hasSent(Iotlb.Question(miss: miss(0), later: later))
    let others = Iotlb.mostQuestions - 2
    for number in 1...others { front.back.iotlb?.hasSent(Iotlb.Question(miss: miss(number))) }
    _ = front.back.iotlb?.takeReply(0)
    // All is read: there is none.
    let cost = ThreadTime.milliseconds { front.run() }
    #expect(cost < 300)
    #expect(device.takeEvents().filter { $0 == .refuse(0) }.count == 1)
    // It is asked for once more, for all the others.
    for _ in 0..<others { _ = front.back.iotlb?.takeReply(0) }
    let again = front.back.iotlb?.takeReply(1)
    #expect(again?.miss == later[0])
    #expect(again?.later == Array(later.dropFirst()))
    _ = own.raw
  }
}
