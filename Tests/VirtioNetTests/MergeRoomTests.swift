// Merged packets for which there is no room, or that nobody wants any more.
import Glibc
import GuestDriver
import GuestMemory
import Testing
import VirtioNet
import Virtqueue

@Suite("Merged packets that find no room")
struct MergeRoomTests {
  private func segments(_ count: Int, seed: UInt64) -> [[UInt8]] {
    var generator = SeededGenerator(seed: seed)
    var flow = WireFlow(.tcp4, using: &generator)
    return (0..<count).map { _ in flow.next(random(1000, &generator)) }
  }

  @Test(
    "a merged packet that the driver's buffers can never take is delivered in parts",
    arguments: [.merging, .merging.subtracting(.mrgRxbuf), .merging.union(.ringPacked)]
      as [VirtioFeatures])
  func tooLarge(features: VirtioFeatures) throws {
    let frames = segments(200, seed: 9)
    var fixture = try ReceiveFixture(features: features, size: 8)
    fixture.port[0].inject(frames)
    var got: [[UInt8]] = []
    for _ in 0..<200 where got.count < frames.count {
      while fixture.driver.outstanding < 8 { try fixture.offer([1400]) }
      fixture.pump()
      for packet in try fixture.collectWithHeaders() {
        got += packet.header[1] == 0 ? [packet.frame] : WireFlow.cut(packet.header, packet.frame)
      }
    }
    #expect(got == frames)
    #expect(fixture.counters.dropped(.tooLongForGuest) == 0)
    #expect(fixture.port[0].isComplete)
  }

  @Test(
    "a driver that never offers enough buffers for a merged packet waits once, and loses nothing")
  func tooFew() throws {
    let frames = segments(150, seed: 10)
    var fixture = try ReceiveFixture(features: .merging)
    fixture.port[0].inject(frames)
    var got: [[UInt8]] = []
    var waits = 0
    while got.count < frames.count && waits < 10 {
      while fixture.driver.outstanding < 5 { try fixture.offer([1400]) }
      fixture.pump()
      let packets = try fixture.collectWithHeaders()
      for packet in packets {
        got += packet.header[1] == 0 ? [packet.frame] : WireFlow.cut(packet.header, packet.frame)
      }
      guard packets.isEmpty, fixture.feed.isStalled else { continue }
      ThreadTime.sleep(milliseconds: Int(ReceiveFeed.patience) + 10)
      fixture.feed.shedIfDue()
      waits += 1
    }
    #expect(got == frames)
    #expect(fixture.counters.dropped(.noGuestBuffers) == 0)
    // From 64 to 32; the next batch waits again, down to 4 at last.
    #expect(waits >= 1 && waits <= 4, "\(waits)")
  }

  @Test("a ring that was short of buffers once merges again later")
  func comesBack() throws {
    var fixture = try ReceiveFixture(features: .merging, ram: GuestRAM(bytes: 256 << 20))
    fixture.port[0].inject(segments(2, seed: 20))
    try fixture.offer([1400])
    fixture.pump()
    #expect(fixture.feed.isStalled)
    ThreadTime.sleep(milliseconds: Int(ReceiveFeed.patience) + 20)
    fixture.feed.shedIfDue()
    while fixture.driver.outstanding < 8 { try fixture.offer([1600]) }
    fixture.pump()
    _ = try fixture.collectWithHeaders()
    var merged = 0
    for round in 0..<1040 {
      while fixture.driver.outstanding < 8 { try fixture.offer([1600]) }
      fixture.port[0].inject(segments(2, seed: UInt64(round)))
      fixture.pump()
      merged += try fixture.collectWithHeaders().count { $0.header[1] != 0 }
    }
    #expect(merged > 0)
  }

  @Test("what waits merged reaches a driver that does not take that any more as it came")
  func switchedOff() throws {
    let frames = segments(10, seed: 11)
    var fixture = try ReceiveFixture(features: .merging)
    fixture.port[0].inject(frames)
    fixture.pump()
    #expect(fixture.feed.isStalled && fixture.feed.heldCount == 10)
    fixture.path.setOffloads([])
    fixture.feed.splitHeld()
    for _ in 0..<30 { try fixture.offer([1400]) }
    fixture.pump()
    fixture.port[0].inject(frames)
    fixture.pump()
    let packets = try fixture.collectWithHeaders()
    #expect(packets.map(\.frame) == frames + frames)
    #expect(packets.allSatisfy { $0.header.prefix(10).allSatisfy { $0 == 0 } })
    fixture.path.setOffloads(.guestAll)
    fixture.port[0].inject(frames)
    fixture.pump()
    #expect(try fixture.collectWithHeaders().count == 1)
    #expect(fixture.port[0].isComplete)
  }

  @Test("another ring gets what waits as it came")
  func rerouted() throws {
    let frames = segments(10, seed: 12)
    var plain = try ReceiveFixture(features: [.version1, .mrgRxbuf])
    let fixture = try ReceiveFixture(features: .merging)
    fixture.port[0].inject(frames)
    fixture.pump()
    #expect(fixture.feed.heldCount == 10)
    for _ in 0..<20 { try plain.offer([1400]) }
    fixture.feed.route(to: plain.path)
    fixture.pump()
    let packets = try plain.collectWithHeaders()
    #expect(packets.map(\.frame) == frames)
    #expect(packets.allSatisfy { $0.header.prefix(10).allSatisfy { $0 == 0 } })
    #expect(fixture.port[0].isComplete)
  }
}

extension VirtioFeatures {
  fileprivate static let guestAll: VirtioFeatures = [
    .guestCsum, .guestTSO4, .guestTSO6, .guestECN, .guestUSO4, .guestUSO6,
  ]
}
