// Where rings and port queues go, for every number of each.
import GuestDriver
import Testing

@testable import VirtioNet

@Suite struct PlacementTests {
  /// Rings of these pairs, both of each.
  private func pairs(_ pairs: Range<Int>) -> Set<Int> {
    Set(pairs.flatMap { [2 * $0, 2 * $0 + 1] })
  }

  @Test("as many port queues as pairs: each pair has its own, on its own worker")
  func even() {
    let placement = Placement(pairs: 3, portQueues: 3, workers: 3)
    for index in 0..<3 {
      #expect(placement.worker(of: 2 * index) == index)
      #expect(placement.worker(of: 2 * index + 1) == index)
      let place = placement.place(
        of: index, enabled: pairs(0..<3), current: .init(worker: 0, ring: 0))
      #expect(place == .init(worker: index, ring: 2 * index))
    }
  }

  @Test("port queues without a pair feed the pairs in use in turn")
  func moreQueues() {
    let placement = Placement(pairs: 2, portQueues: 6, workers: 8)
    #expect(placement.workers == 2)
    let both = (0..<6).map {
      placement.place(of: $0, enabled: pairs(0..<2), current: .init(worker: 0)).ring
    }
    #expect(both == [0, 2, 0, 2, 0, 2])
    let one = (0..<6).map {
      placement.place(of: $0, enabled: pairs(0..<1), current: .init(worker: 1))
    }
    #expect(one.allSatisfy { $0 == .init(worker: 0, ring: 0) })
  }

  @Test("pairs without a port queue share one to transmit, on its worker")
  func morePairs() {
    let placement = Placement(pairs: 5, portQueues: 2, workers: 5)
    #expect(placement.workers == 2)
    for pair in 0..<5 {
      #expect(placement.portQueue(of: 2 * pair + 1) == pair % 2)
      #expect(placement.worker(of: 2 * pair + 1) == pair % 2)
    }
    let all = (0..<2).map {
      placement.place(of: $0, enabled: pairs(0..<5), current: .init(worker: 0))
    }
    #expect(all == [.init(worker: 0, ring: 0), .init(worker: 1, ring: 2)])
  }

  @Test("a port queue goes nowhere while no pair is in use")
  func idle() {
    let placement = Placement(pairs: 2, portQueues: 2, workers: 2)
    let place = placement.place(of: 1, enabled: [], current: .init(worker: 0, ring: 0))
    #expect(place == .init(worker: 0))
  }

  @Test("whatever is enabled, port queues are with their transmit rings, and feed rings that run")
  func invariants() {
    var generator = SeededGenerator(seed: 7)
    for _ in 0..<5000 {
      let placement = Placement(
        pairs: .random(in: 1...6, using: &generator),
        portQueues: .random(in: 1...6, using: &generator),
        workers: .random(in: 1...6, using: &generator))
      let rings = 0..<2 * placement.pairs
      let enabled = Set(rings.filter { _ in Bool.random(using: &generator) })
      var fed: Set<Int> = []
      for index in 0..<placement.portQueues {
        let current = Placement.Place(worker: .random(in: 0..<placement.workers, using: &generator))
        let place = placement.place(of: index, enabled: enabled, current: current)
        #expect((0..<placement.workers).contains(place.worker))
        let senders = enabled.filter { $0 % 2 == 1 && placement.portQueue(of: $0) == index }
        for ring in senders { #expect(placement.worker(of: ring) == place.worker) }
        if let ring = place.ring {
          #expect(enabled.contains(ring) && ring % 2 == 0)
          #expect(placement.worker(of: ring) == place.worker)
          fed.insert(index)
        } else {
          // Only if no ring could take them there.
          let takers = enabled.filter { $0 % 2 == 0 }
          #expect(
            senders.isEmpty
              ? takers.isEmpty : takers.allSatisfy { placement.worker(of: $0) != place.worker })
        }
      }
      // A guest that uses whole pairs misses nothing.
      let whole = (0..<placement.pairs).allSatisfy {
        enabled.contains(2 * $0) == enabled.contains(2 * $0 + 1)
      }
      if whole && !enabled.isEmpty { #expect(fed.count == placement.portQueues) }
    }
  }
}
