// Queue pairs, port queues and workers in numbers that differ, and moves between them under load.
import Glibc
import GuestDriver
import Linux
import Testing
import VirtioNet

@Suite("Queue pairs and port queues")
struct MultiqueueTests {
  @Test("port queues beyond the queue pairs feed the guest")
  func moreQueues() throws {
    let guest = try Guest(pairs: 2, portQueues: 5)
    for ring in 0..<4 { guest.start(ring) }
    guest.giveBuffers(16, pair: 0)
    guest.giveBuffers(16, pair: 1)
    for queue in 0..<5 {
      guest.port[queue].inject([frame(100 + queue)])
      #expect(
        try eventually {
          try guest.drivers[queue % 2 * 2].nextUsed()?.length == UInt32(112 + queue)
        })
    }
    // The guest uses one pair only.
    for ring in 2..<4 { _ = guest.device.stopQueue(ring) }
    for queue in 0..<5 {
      guest.port[queue].inject([frame(200 + queue)])
      #expect(
        try eventually { try guest.drivers[0].nextUsed()?.length == UInt32(212 + queue) })
    }
    #expect(guest.port.problems.isEmpty)
  }

  @Test("queue pairs beyond the port queues transmit through those of others")
  func morePairs() throws {
    let guest = try Guest(pairs: 5, portQueues: 2)
    for ring in 0..<10 { guest.start(ring) }
    for pair in 0..<5 {
      guest.giveBuffers(4, pair: pair)
      for _ in 0..<20 { guest.send(frame(60 + pair), pair: pair) }
    }
    #expect(eventually { guest.port[0].transmittedCount == 60 })
    #expect(eventually { guest.port[1].transmittedCount == 40 })
    let lengths = guest.port[0].takeTransmitted().map(\.count)
    for pair in [0, 2, 4] { #expect(lengths.count { $0 == 60 + pair } == 20) }
    // Port queues feed the pairs of their number, or another one if that is not in use.
    guest.port[1].inject([frame(100)])
    #expect(try eventually { try guest.drivers[2].nextUsed()?.length == 112 })
    for ring in 2..<4 { _ = guest.device.stopQueue(ring) }
    guest.port[1].inject([frame(101)])
    #expect(
      try eventually {
        try [0, 4, 6, 8].contains { try guest.drivers[$0].nextUsed()?.length == 113 }
      })
    guest.send(frame(99), pair: 3)
    #expect(eventually { guest.port[1].transmittedCount == 41 })
    #expect(guest.port.problems.isEmpty)
  }

  @Test("while pairs come and go under load, every frame arrives or is counted")
  func movesUnderLoad() throws {
    let guest = try Guest(pairs: 3, portQueues: 4)
    for ring in 0..<2 { guest.start(ring) }
    var offered = [0, 0, 0]
    var used = [0, 0, 0]
    var delivered = 0
    var injected = 0
    func collect() throws {
      for pair in 0..<3 {
        while try guest.drivers[2 * pair].nextUsed() != nil {
          used[pair] += 1
          delivered += 1
        }
        if offered[pair] - used[pair] < 32 {
          guest.giveBuffers(16, pair: pair)
          offered[pair] += 16
        }
      }
    }
    for round in 0..<60 {
      for queue in 0..<4 {
        guest.port[queue].inject((0..<10).map { frame(60 + $0) })
        injected += 10
      }
      try collect()
      let pair = 1 + round % 2
      for ring in [2 * pair, 2 * pair + 1] {
        if round / 2 % 2 == 0 { guest.start(ring) } else { _ = guest.device.stopQueue(ring) }
      }
      try collect()
    }
    let wanted = injected
    #expect(
      try eventually {
        try collect()
        return delivered + Self.counted(guest.device) == wanted
      }, "\(delivered) of \(wanted), \(guest.device.counterReport)")
    // A move drops one batch at most; here 240 of them could have.
    #expect(delivered > wanted / 2)
    #expect(guest.port.problems.isEmpty)
    #expect((0..<4).allSatisfy { guest.port[$0].framesInDataPath == 0 })
  }

  @Test("rings that stop and start for one request leave waiting frames and port queues in place")
  func quietChange() throws {
    let guest = try Guest(pairs: 2)
    for attempt in 0..<20 {
      for ring in 0..<4 { guest.start(ring) }
      guest.port[0].inject([frame(100), frame(101)])
      // Taken from the port, and waiting for buffers: a move to another worker would drop them.
      #expect(eventually { guest.port[0].framesInDataPath == 2 })
      let start = MonotonicClock.milliseconds
      guest.device.willChangeRings()
      for ring in 0..<4 { _ = guest.device.stopQueue(ring) }
      for ring in 0..<4 { guest.start(ring) }
      guest.device.didChangeRings()
      let took = MonotonicClock.milliseconds - start
      guest.giveBuffers(2)
      // A machine that held us up for longer than frames wait proves nothing.
      if took > 80 && attempt < 19 {
        _ = eventually { guest.port[0].framesInDataPath == 0 }
        while try guest.drivers[0].nextUsed() != nil {}
        for ring in 0..<4 { _ = guest.device.stopQueue(ring) }
        continue
      }
      #expect(try eventually { try guest.drivers[0].nextUsed()?.length == 112 })
      #expect(try eventually { try guest.drivers[0].nextUsed()?.length == 113 })
      #expect(Self.counted(guest.device) == 0, "\(guest.device.counterReport)")
      return
    }
  }

  /// Frames that the device says it has dropped.
  private static func counted(_ device: NetDevice) -> Int {
    device.counterReport.split { $0 == "\n" || $0 == "," }.reduce(0) { sum, part in
      let words = part.split(separator: " ").suffix(2)
      guard let name = words.first, name.hasPrefix("dropped_"), let value = words.last else {
        return sum
      }
      return sum + (Int(value) ?? 0)
    }
  }
}
