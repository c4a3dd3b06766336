// The sums of all counters close, whatever happens: taken is delivered, waiting and dropped.
import Glibc
import GuestDriver
import HostPort
import Linux
import Testing
import Virtqueue

@testable import VirtioNet

@Suite("The counters add up")
struct AccountingTests {
  enum Port: CaseIterable {
    case scripted, fragments, checksums, fewFrames, uncut, reflect, null, generate
  }

  private static func open(_ port: Port) throws -> any HostPortQueue {
    var options = ScriptedPort.Options()
    options.transmitFrames = 600
    switch port {
    case .scripted: break
    case .fragments: (options.frameSize, options.framesPerPacket) = (512, 4)
    case .checksums: options.fillsChecksums = true
    case .fewFrames: (options.transmitFrames, options.completesAtOnce) = (40, false)
    case .uncut: options.bulkLane = BulkLane(leastSegments: 4, mtu: 1500)
    case .reflect: return try ReflectPort().openQueue(0)
    case .null: return try NullPort().openQueue(0)
    case .generate: return try GeneratePort(size: 200).openQueue(0)
    }
    return try ScriptedPort(options).openQueue(0)
  }

  #if DEBUG
    private static let seeds: UInt64 = 6
  #else
    private static let seeds: UInt64 = 100
  #endif

  @Test(
    "after every step, on every port, and each reason under its own name",
    arguments: Port.allCases)
  func property(port: Port) throws {
    var seen: Set<AccountedPair.Fate> = []
    var delivered = 0
    for seed in 0..<AccountingTests.seeds {
      let queue = try AccountingTests.open(port)
      let pair = try AccountedPair(queue, seed: seed)
      if port == .fewFrames { pair.largestBurst = 30 }
      if let scripted = pair.scripted {
        pair.inject = { scripted.inject($0) }
        pair.disturb = { scripted.setLinkDown($0 == 0) }
      }
      var wire = AlikePackets(seed: seed, kinds: WireFlow.Kind.allCases, flowCount: 3)
      try pair.restart()
      for number in 0..<150 {
        try pair.step(&wire)
        let accounts = pair.accounts
        try #require(accounts.complaint == nil, "seed \(seed), step \(number): \(accounts)")
        try #require(pair.matches(accounts), "seed \(seed), step \(number): \(accounts)")
      }
      #expect(pair.scripted?.problems.isEmpty ?? true, "\(pair.scripted?.problems ?? [])")
      seen.formUnion(pair.returned.keys)
      delivered += pair.gotSegments
    }
    // It was no empty exercise.
    let reasons: [DropReason] = [
      .malformedChain, .tooShort, .tooLong, .badHeader, .badOffload, .tooManySegments,
      .ringDisabled,
    ]
    for reason in reasons { #expect(seen.contains(.dropped(reason)), "\(reason)") }
    #expect(seen.contains(.packet) && seen.contains { if case .cut = $0 { true } else { false } })
    #expect(delivered > 100 || port == .null, "\(delivered)")
  }

  @Test("also when they are read at any moment of a worker that is busy")
  func anyMoment() throws {
    var options = ScriptedPort.Options()
    options.endlessFrameLength = 100
    options.records = false
    let guest = try Guest(pairs: 2, options: options, polling: Polling(mode: .busy))
    for ring in 0..<4 { guest.start(ring) }
    let mark = guest.ram.mark
    var last = 0
    for round in 0..<300 {
      guest.ram.release(to: mark)
      for pair in 0..<2 {
        for ring in [2 * pair, 2 * pair + 1] { _ = try guest.drivers[ring].allUsed() }
        guest.giveBuffers(64 - guest.drivers[2 * pair].outstanding, pair: pair)
        while guest.drivers[2 * pair + 1].outstanding < 60 { guest.send(frame(60), pair: pair) }
      }
      let accounts = Accounts(guest.device.settledReport)
      try #require(accounts.complaint == nil, "round \(round): \(accounts.complaint!): \(accounts)")
      last = accounts.delivered + accounts.given
    }
    #expect(last > 1000)
  }

  @Test("an announcement of our own is among them")
  func announcement() throws {
    let guest = try Guest()
    for ring in 0..<2 { guest.start(ring) }
    guest.send(frame(60))
    guest.device.announce((2, 0, 0, 0, 0, 9))
    #expect(eventually { guest.port[0].transmittedCount == 2 })
    let accounts = Accounts(guest.device.settledReport)
    #expect(accounts.complaint == nil && accounts.given == 2, "\(accounts)")
    #expect(accounts.sum("worker", "announcements") == 1)
  }

  @Test("an announcement that finds no frame is counted as dropped")
  func noRoom() throws {
    var options = ScriptedPort.Options()
    (options.transmitFrames, options.completesAtOnce) = (1, false)
    let guest = try Guest(options: options)
    for ring in 0..<2 { guest.start(ring) }
    guest.send(frame(60))
    #expect(eventually { guest.port[0].transmittedCount == 1 })
    guest.device.announce((2, 0, 0, 0, 0, 9))
    let accounts = Accounts(guest.device.settledReport)
    #expect(accounts.complaint == nil, "\(accounts)")
    #expect(accounts.sum("worker", "dropped_announcements") == 1)
  }

  @Test("merged packets that are dropped count as the packets that came")
  func droppedMerged() throws {
    var generator = SeededGenerator(seed: 3)
    var flow = WireFlow(.tcp4, using: &generator)
    let frames = (0..<10).map { _ in flow.next(random(1000, &generator)) }
    for shed in [false, true] {
      let fixture = try ReceiveFixture(features: .merging)
      fixture.port[0].inject(frames)
      fixture.pump()
      #expect(fixture.counters.waiting.current == 10)
      if shed {
        ThreadTime.sleep(milliseconds: Int(ReceiveFeed.patience) + 10)
        fixture.port[0].inject([frame(60)])
        fixture.feed.shedIfDue()
        #expect(fixture.counters.dropped(.noGuestBuffers) == 10)
        #expect(fixture.counters.waiting.current == 1)
      } else {
        fixture.feed.release()
        #expect(fixture.counters.dropped(.noGuest) == 10)
        #expect(fixture.counters.waiting.current == 0)
      }
      #expect(fixture.counters.merged.current == 0)
    }
  }
}
