// The counters of a device as text.
//
// Each worker reads those that it writes, between two of its turns: no packet is half way then, and
// what was taken is what arrived, waits or was dropped.  A worker that does not answer in time, which
// hangs or waits for guest memory that is on its way, must not keep anybody from seeing them: they are
// read without it, while it may be writing.
import HostPort
import Linux

/// Whose counters a line, or a part of one, tells.
package enum CounterPart: Hashable, Sendable {
  case ring(Int)
  /// What frames of a port queue met before a ring took them.
  case feed(Int)
  case queue(Int)
  case worker(Int)
}

extension NetDevice {
  /// How long a worker is waited for, in milliseconds.
  private static let patience: UInt64 = 200

  /// What happened so far, a line per ring, per port queue and per worker.
  public var counterReport: String {
    let parts = readCounters()
    var lines: [String] = []
    /// - Parameter feed: of the port queue whose part goes into this line.
    func add(_ label: String, _ part: CounterPart, feed: Int? = nil) {
      let texts = [parts[part], feed.flatMap { parts[.feed($0)] }].compactMap { $0 }
      let text = texts.filter { !$0.isEmpty }.joined(separator: ", ")
      if !text.isEmpty { lines.append("\(label): \(text)") }
    }
    for pair in 0..<queuePairCount {
      add("receive \(pair)", .ring(2 * pair), feed: pair)
      add("transmit \(pair)", .ring(2 * pair + 1))
    }
    if let faults = control?.ringFaults, faults > 0 {
      lines.append("control queue: ring_faults \(faults)")
    }
    for index in queues.indices {
      add(
        "\(port.name) queue \(index)", .queue(index), feed: index < queuePairCount ? nil : index)
    }
    for index in workers.indices { add("worker \(index)", .worker(index)) }
    return lines.joined(separator: "\n")
  }

  private func readCounters() -> [CounterPart: String] {
    let questions = workers.indices.map { index in
      (read: reading(ofWorker: index), reply: Reply<[CounterPart: String]>(signalling: answered))
    }
    for (worker, question) in zip(workers, questions) {
      worker.post(.read(question.read, question.reply))
    }
    let deadline = MonotonicClock.milliseconds + NetDevice.patience
    // They share an event; each looks at its own answer before it waits for that.
    return questions.reduce(into: [:]) { parts, question in
      let answer = question.reply.wait(until: deadline) ?? question.read()
      parts.merge(answer) { $1 }
    }
  }

  /// Reads what worker `index` writes.
  private func reading(ofWorker index: Int) -> @Sendable () -> [CounterPart: String] {
    let rings = counters.indices.filter { placement.worker(of: $0) == index }
      .map { (index: $0, counters: counters[$0]) }
    let ports = queues.indices.filter { places[$0].worker == index }
      .map { (index: $0, queue: queues[$0], counters: feedCounters[$0]) }
    let own = workers[index].counters
    return {
      var parts: [CounterPart: String] = [.worker(index): own.summary]
      for ring in rings { parts[.ring(ring.index)] = ring.counters.summary }
      for port in ports {
        parts[.feed(port.index)] = port.counters.feedSummary.joined(separator: ", ")
        parts[.queue(port.index)] = port.queue.statistics.counters
          .map { "\($0.name) \($0.value)" }.joined(separator: ", ")
      }
      return parts
    }
  }
}
