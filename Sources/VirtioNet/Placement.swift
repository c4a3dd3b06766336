// Which worker runs which ring, and which ring takes the frames of which port queue.
//
// The number of queue pairs is the guest's, the number of port queues is the NIC's, and a guest
// may use fewer pairs than it was given.  The rules:
// - Pair p transmits through port queue p mod N.  Rings that share a port queue run on its worker.
// - Port queue q feeds the receive ring of pair q.
// - A port queue whose own pair is not in use, or that has none, feeds a pair that is: frames that
//   the NIC spreads there are not lost.  Pairs in use take such queues in turn.
// - A pair beyond the port queues transmits, and receives only what such a queue feeds it.
//
// What must hold at any time: a port queue belongs to one worker, and to that of the enabled
// transmit rings that use it.

package struct Placement: Equatable {
  /// Where a port queue is, and which receive ring it feeds.
  package struct Place: Equatable {
    package var worker: Int
    package var ring: Int?

    package init(worker: Int, ring: Int? = nil) {
      self.worker = worker
      self.ring = ring
    }
  }

  package let pairs: Int
  package let portQueues: Int
  package let workers: Int

  /// - Parameter workers: as many as are wanted; there are no more than pairs and port queues.
  package init(pairs: Int, portQueues: Int, workers: Int) {
    self.pairs = pairs
    self.portQueues = portQueues
    self.workers = min(workers, pairs, portQueues)
  }

  /// The port queue that a ring transmits through; for a receive ring, its pair's.
  package func portQueue(of ring: Int) -> Int { ring / 2 % portQueues }

  /// The worker that runs a ring.
  package func worker(of ring: Int) -> Int { worker(ofPortQueue: portQueue(of: ring)) }

  /// The worker that a port queue is with unless it feeds a ring of another one.
  package func worker(ofPortQueue index: Int) -> Int { index % workers }

  /// Where port queue `index` belongs.
  /// - Parameters:
  ///   - enabled: rings that run and are enabled.
  ///   - current: where it is now.
  package func place(of index: Int, enabled: Set<Int>, current: Place) -> Place {
    let home = worker(ofPortQueue: index)
    if index < pairs && enabled.contains(2 * index) { return Place(worker: home, ring: 2 * index) }
    let active = (0..<pairs).filter { enabled.contains(2 * $0) }
    let senders = stride(from: index, to: pairs, by: portQueues)
    if senders.contains(where: { enabled.contains(2 * $0 + 1) }) {
      // A transmit ring needs it at home: a pair in use on the same worker takes its frames.
      let neighbour = active.first { worker(of: 2 * $0) == home }
      return Place(worker: home, ring: neighbour.map { 2 * $0 })
    }
    guard !active.isEmpty else { return Place(worker: current.worker) }
    let ring = 2 * active[index % active.count]
    return Place(worker: worker(of: ring), ring: ring)
  }
}
