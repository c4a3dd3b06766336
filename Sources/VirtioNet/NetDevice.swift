// The virtio-net device: what a vhost-user session configures, on top of a host port.
//
// Ring 2p is the receive queue of pair p, ring 2p + 1 its transmit queue; port queue p belongs to
// pair p.  Pair p runs on worker p mod workers.  The port queues of pairs that the guest does not
// use (firmware uses one pair, a guest may use fewer than it was given) feed the receive queues of
// the pairs that it does use, so that no frame the NIC hashes there is lost.
//
// Confined to the control thread.
public import HostPort
public import VhostUser
public import Virtqueue
import Linux
import Packet

public final class NetDevice: Device {
  private let port: any HostPort
  private let queues: [any HostPortQueue]
  private let workers: [WorkerThread]
  private let counters: [RingCounters]
  /// A worker has answered; for one question at a time.
  private let answered: EventDescriptor
  private let log: @Sendable (String) -> Void

  /// Rings that run and are enabled.
  private var enabledRings: Set<Int> = []
  private var runningRings: Set<Int> = []
  /// Where each port queue is, and which receive ring it feeds.
  private var placement: [Placement]

  private struct Placement: Equatable {
    var worker: Int
    var ring: Int?
  }

  /// Opens the port's queues and starts the workers.
  /// - Parameters:
  ///   - queuePairs: at least 1, at most the port's queues.
  ///   - cpus: one worker for each, bound to it; empty: one unbound worker a queue pair.
  ///   - log: called on any thread, at most `LogLimit.burst` times and then once a second.
  public init(
    port: any HostPort, queuePairs: Int, cpus: [Int],
    log: @escaping @Sendable (String) -> Void
  ) throws(PortError) {
    guard queuePairs >= 1, queuePairs <= port.capabilities.queueCount else {
      throw PortError(
        "\(port.name): \(queuePairs) queue pairs asked for, but it has "
          + "\(port.capabilities.queueCount) queues; choose --queues accordingly")
    }
    self.port = port
    // A guest or front-end can cause lines as fast as it resets the device.
    let limit = LogLimit()
    let log: @Sendable (String) -> Void = { line in
      guard let omitted = limit.admit() else { return }
      log(omitted == 0 ? line : "\(line) (\(omitted) lines were left out before)")
    }
    self.log = log
    var queues: [any HostPortQueue] = []
    for index in 0..<queuePairs { queues.append(try port.openQueue(index)) }
    self.queues = queues
    counters = (0..<2 * queuePairs).map { _ in RingCounters() }
    let workerCount = cpus.isEmpty ? queuePairs : min(cpus.count, queuePairs)
    do throws(Errno) { answered = try EventDescriptor() } catch {
      throw PortError("no descriptor for the workers: \(error); raise the limit of open files")
    }
    var workers: [WorkerThread] = []
    for index in 0..<workerCount {
      do throws(Errno) {
        workers.append(
          try WorkerThread(index: index, cpu: cpus.isEmpty ? nil : cpus[index], log: log))
      } catch {
        for worker in workers { worker.end() }
        throw PortError(
          "worker \(index) cannot be started"
            + (cpus.isEmpty ? "" : " on CPU \(cpus[index])") + ": \(error); "
            + "allowed CPUs are \(PinnedThread.allowedCPUs)")
      }
    }
    self.workers = workers
    placement = (0..<queuePairs).map { Placement(worker: $0 % workerCount, ring: nil) }
    for (index, queue) in queues.enumerated() {
      workers[placement[index].worker].post(.adopt(queue, counters[2 * index], idleSince: 0))
    }
  }

  /// Ends the workers and closes the port's queues.  All rings must have been stopped.
  public func stop() {
    for worker in workers { worker.end() }
  }

  // MARK: Device

  public var offeredFeatures: VirtioFeatures {
    var features: VirtioFeatures = [
      .mrgRxbuf, .mtu, .guestAnnounce, .anyLayout, .ringIndirectDesc, .ringEventIdx, .version1,
    ]
    if queuePairCount > 1 { features.insert(.mq) }
    return features
  }

  public var queuePairCount: Int { queues.count }
  public var maximumMTU: Int { port.capabilities.mtu }

  /// Nothing depends on it before a ring starts, and then it is in the ring's configuration.
  public func negotiate(_ features: VirtioFeatures) {}

  public func startQueue(_ config: VirtqueueConfig) {
    let ring = config.index
    guard ring >= 0, ring < 2 * queuePairCount else { return }
    runningRings.insert(ring)
    if config.isEnabled { enabledRings.insert(ring) } else { enabledRings.remove(ring) }
    // A transmit ring needs its port queue beside it before it starts; a receive ring must run
    // before frames are sent its way.
    if ring % 2 == 1 { placePortQueues() }
    let started: QueueStart = ask(home(of: ring)) {
      .startQueue(config, queues[ring / 2], counters[ring], $0)
    }
    if case .refused(let reason) = started {
      runningRings.remove(ring)
      enabledRings.remove(ring)
      config.error?.signal()
      log("ring \(ring) cannot be started: \(reason)")
    }
    placePortQueues()
  }

  public func stopQueue(_ index: Int) -> VringBase? {
    guard runningRings.remove(index) != nil else { return nil }
    enabledRings.remove(index)
    let base = ask(home(of: index)) { .stopQueue(index, $0) }
    placePortQueues()
    return base
  }

  public func announce(_ address: (UInt8, UInt8, UInt8, UInt8, UInt8, UInt8)) {
    workers[placement[0].worker].post(.send(ReverseARP.announcement(of: address), port: 0))
  }

  // MARK: placement

  private func home(of ring: Int) -> Int { (ring / 2) % workers.count }

  /// Puts every port queue where its frames are wanted.
  private func placePortQueues() {
    let active = (0..<queuePairCount).filter { enabledRings.contains(2 * $0) }
    for index in 0..<queuePairCount {
      let wanted = place(index, active)
      let current = placement[index]
      if wanted == current { continue }
      if wanted.worker != current.worker {
        let idleSince: UInt64 = ask(current.worker) { .yield(index, $0) }
        workers[wanted.worker].post(
          .adopt(queues[index], counters[2 * index], idleSince: idleSince))
      }
      _ = ask(wanted.worker) { .route(port: index, ring: wanted.ring, $0) }
      placement[index] = wanted
    }
  }

  private func place(_ index: Int, _ active: [Int]) -> Placement {
    let home = index % workers.count
    if active.contains(index) { return Placement(worker: home, ring: 2 * index) }
    if enabledRings.contains(2 * index + 1) {
      // Its transmit ring needs it at home: any active pair of the same worker takes its frames.
      let neighbour = active.first { $0 % workers.count == home }
      return Placement(worker: home, ring: neighbour.map { 2 * $0 })
    }
    guard !active.isEmpty else { return Placement(worker: placement[index].worker, ring: nil) }
    let pair = active[index % active.count]
    return Placement(worker: pair % workers.count, ring: 2 * pair)
  }

  /// Needs no resource, so a ring can always be stopped.
  private func ask<Answer: Sendable>(
    _ worker: Int, _ message: (Reply<Answer>) -> WorkerMessage
  ) -> Answer {
    let reply = Reply<Answer>(signalling: answered)
    workers[worker].post(message(reply))
    return reply.wait()
  }

  // MARK: counters

  /// What happened so far, a line per ring and per port queue.
  public var counterReport: String {
    var lines: [String] = []
    for pair in 0..<queuePairCount {
      lines.append("receive \(pair): \(counters[2 * pair].summary)")
      lines.append("transmit \(pair): \(counters[2 * pair + 1].summary)")
      let kernel = queues[pair].statistics.counters.map { "\($0.name) \($0.value)" }
      if !kernel.isEmpty {
        lines.append("\(port.name) queue \(pair): \(kernel.joined(separator: ", "))")
      }
    }
    return lines.joined(separator: "\n")
  }

  /// What each port queue really got.
  public var queueModes: [String] { queues.map(\.mode) }
}
