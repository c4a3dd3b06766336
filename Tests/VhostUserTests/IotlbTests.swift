// What a session asks the front-end about its IOMMU, and what it keeps of the answers.
import GuestMemory
import Testing
import Virtqueue

@testable import VhostUser

@Suite("Translations of a session")
struct IotlbTests {
  private static let page: UInt64 = 4096

  private func miss(_ page: Int) -> TranslationMiss {
    TranslationMiss(address: IOVirtualAddress(UInt64(page) * IotlbTests.page), access: .read)
  }

  private func update(_ iova: UInt64) -> [UInt8] {
    bytes(iova, IotlbTests.page, 0x7000_0000_0000, 3 | UInt64(IotlbMessage.update) << 8)
  }

  @Test("a front-end that never replies is asked all the same")
  func noReplies() throws {
    let file = try memoryFile(1 << 20)
    let memory = try GuestMemory([try MemoryRegion(.megabyte, file: file)])
    var iotlb = try Iotlb()
    for i in 0..<2 * Iotlb.mostQuestions {
      guard iotlb.shouldAsk(miss(i)) else {
        Issue.record("question \(i) is not asked")
        return
      }
      iotlb.hasSent(Iotlb.Question(miss: miss(i)))
      iotlb.table.removeAll()
      try iotlb.table.update(
        miss(i).address, size: IotlbTests.page, to: MemoryRegionDescription.megabyte.frontEnd,
        permission: 3, memory: memory)
      iotlb.noteAnswers(expectsReplies: true)
    }
  }

  @Test("questions without an answer are bounded")
  func noAnswers() throws {
    var iotlb = try Iotlb()
    for i in 0..<Iotlb.mostQuestions {
      let isAsked = iotlb.shouldAsk(miss(i))
      #expect(isAsked)
      iotlb.hasSent(Iotlb.Question(miss: miss(i)))
    }
    let oneMore = iotlb.shouldAsk(miss(Iotlb.mostQuestions))
    #expect(!oneMore)
    iotlb.forgetQuestions()
    let afterwards = iotlb.shouldAsk(miss(0))
    #expect(afterwards)
  }

  @Test("chains that join in a question are bounded: rings may start again and again")
  func laterChains() throws {
    var iotlb = try Iotlb()
    iotlb.hasSent(Iotlb.Question(miss: miss(0)))
    for chain in 1...3 * UInt64(Iotlb.mostLater) {
      var later = miss(0)
      later.chain = chain
      let isAsked = iotlb.shouldAsk(later)
      #expect(!isAsked)
    }
    let question = iotlb.takeReply(1)
    #expect(question?.later.count == Iotlb.mostLater)
    #expect(question?.later.last?.chain == 3 * UInt64(Iotlb.mostLater), "the latest ones count")
  }

  @Test("a ring that is stopped keeps nothing of the memory it was in")
  func stoppedRing() throws {
    let device = RecordingDevice()
    device.offeredFeatures.insert(.accessPlatform)
    let front = try ScriptedFrontEnd(device)
    try front.negotiate([.version1, .accessPlatform])
    try front.shareMemory()
    let base = MemoryRegionDescription.megabyte.frontEnd.value
    let all = bytes(base, 1 << 20, base, 3 | UInt64(IotlbMessage.update) << 8)
    #expect(try front.send(22, all) == bytes(0))
    try front.setUp(0)
    #expect(front.back.startedRings == [0])
    weak let memory = front.back.memory
    #expect(memory != nil)
    #expect(try front.send(11, state(0, 0)) != nil)
    try front.shareMemory()
    #expect(memory == nil)
  }

  @Test("SET_FEATURES drops translations, but not that there is an IOMMU; a reset drops both")
  func negotiation() throws {
    let device = RecordingDevice()
    device.offeredFeatures.insert(.accessPlatform)
    let front = try ScriptedFrontEnd(device)
    try front.negotiate([.version1, .accessPlatform])
    try front.shareMemory()
    #expect(!front.back.isTranslating, "no channel, and no word of translations")
    #expect(try front.send(22, update(0)) == bytes(0))
    #expect(front.back.isTranslating)
    let features: VirtioFeatures = [.version1, .accessPlatform, .protocolFeatures]
    try front.send(2, bytes(features.rawValue))
    #expect(front.back.iotlb?.table.count == 0)
    #expect(front.back.isTranslating)
    #expect(try front.acknowledged(34) == 0)
    try front.send(2, bytes(features.rawValue))
    #expect(!front.back.isTranslating)
  }
}
