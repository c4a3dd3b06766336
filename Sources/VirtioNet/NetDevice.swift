// The virtio-net device: what a vhost-user session configures, on top of a host port.
//
// Ring 2p is the receive queue of pair p, ring 2p + 1 its transmit queue.  All of the port's queues
// are open, be they more or fewer than the pairs; `Placement` has the rules of which goes where.
//
// Confined to the control thread.
public import GuestMemory
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
  /// By port queue: what its frames met that no ring took.  Its own pair's receive ring counts them
  /// if it has one.
  private let feedCounters: [RingCounters]
  /// A worker has answered; for one question at a time.
  private let answered: EventDescriptor
  private let log: @Sendable (String) -> Void

  /// Rings that run and are enabled.
  private var enabledRings: Set<Int> = []
  private var runningRings: Set<Int> = []
  private let placement: Placement
  private var places: [Placement.Place]
  /// Between `willChangeRings` and `didChangeRings`.
  private var isChanging = false

  /// Opens the port's queues and starts the workers.
  /// - Parameters:
  ///   - queuePairs: at least 1; the port has at least one queue.
  ///   - cpus: one worker for each, bound to it; empty: one unbound worker a queue pair.  There are
  ///     no more workers than queue pairs, or than port queues.
  ///   - log: called on any thread, at most `LogLimit.burst` times and then once a second.
  public init(
    port: any HostPort, queuePairs: Int, cpus: [Int],
    log: @escaping @Sendable (String) -> Void
  ) throws(PortError) {
    let portQueues = port.capabilities.queueCount
    precondition(queuePairs >= 1 && portQueues >= 1)
    self.port = port
    // A guest or front-end can cause lines as fast as it resets the device.
    let limit = LogLimit()
    let log: @Sendable (String) -> Void = { line in
      guard let omitted = limit.admit() else { return }
      log(omitted == 0 ? line : "\(line) (\(omitted) lines were left out before)")
    }
    self.log = log
    var queues: [any HostPortQueue] = []
    for index in 0..<portQueues { queues.append(try port.openQueue(index)) }
    self.queues = queues
    let counters = (0..<2 * queuePairs).map { _ in RingCounters() }
    self.counters = counters
    feedCounters = (0..<portQueues).map { $0 < queuePairs ? counters[2 * $0] : RingCounters() }
    let placement = Placement(
      pairs: queuePairs, portQueues: portQueues,
      workers: cpus.isEmpty ? queuePairs : cpus.count)
    self.placement = placement
    do throws(Errno) { answered = try EventDescriptor() } catch {
      throw PortError("no descriptor for the workers: \(error); raise the limit of open files")
    }
    var workers: [WorkerThread] = []
    for index in 0..<placement.workers {
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
    places = (0..<portQueues).map { .init(worker: placement.worker(ofPortQueue: $0)) }
    for (index, queue) in queues.enumerated() {
      workers[places[index].worker].post(.adopt(queue, feedCounters[index], idleSince: 0))
    }
  }

  /// Ends the workers and closes the port's queues.  All rings must have been stopped.
  public func stop() {
    for worker in workers { worker.end() }
  }

  // MARK: Device

  public var offeredFeatures: VirtioFeatures {
    var features: VirtioFeatures = [
      .mrgRxbuf, .mtu, .guestAnnounce, .notifyOnEmpty, .anyLayout, .ringIndirectDesc,
      .ringEventIdx, .version1, .accessPlatform, .ringPacked, .inOrder, .orderPlatform,
    ]
    if queuePairCount > 1 { features.insert(.mq) }
    return features
  }

  public var queuePairCount: Int { placement.pairs }
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
    if ring % 2 == 1 && config.isEnabled { settle(placement.portQueue(of: ring)) }
    let started: QueueStart = ask(placement.worker(of: ring)) {
      .startQueue(config, queues[placement.portQueue(of: ring)], counters[ring], $0)
    }
    if case .refused(let reason) = started {
      runningRings.remove(ring)
      enabledRings.remove(ring)
      config.error?.signal()
      log("ring \(ring) cannot be started: \(reason)")
    }
    settlePortQueues()
  }

  public func stopQueue(_ index: Int) -> VringBase? {
    guard runningRings.remove(index) != nil else { return nil }
    enabledRings.remove(index)
    let base = ask(placement.worker(of: index)) { .stopQueue(index, $0) }
    // The worker has let go of its port queues.
    for queue in places.indices where places[queue].ring == index { places[queue].ring = nil }
    settlePortQueues()
    return base
  }

  /// Rings that stop and start again leave the port queues where they are.
  public func willChangeRings() { isChanging = true }

  public func didChangeRings() {
    isChanging = false
    settlePortQueues()
  }

  public func translate(by table: Translations) {
    let replies = workers.map { worker in
      let reply = Reply<Bool>(signalling: answered)
      worker.post(.translate(table, reply))
      return reply
    }
    // They share an event; each looks at its own answer before it waits for that.
    for reply in replies { _ = reply.wait() }
  }

  public func refuse(_ miss: TranslationMiss) {
    for worker in workers { worker.post(.refuse(miss)) }
  }

  public func announce(_ address: (UInt8, UInt8, UInt8, UInt8, UInt8, UInt8)) {
    workers[places[0].worker].post(.send(ReverseARP.announcement(of: address), port: 0))
  }

  // MARK: placement

  /// Puts every port queue where its frames are wanted.
  private func settlePortQueues() {
    guard !isChanging else { return }
    queues.indices.forEach(settle)
  }

  private func settle(_ index: Int) {
    let current = places[index]
    let wanted = placement.place(of: index, enabled: enabledRings, current: current)
    if wanted == current { return }
    if wanted.worker != current.worker {
      let idleSince: UInt64 = ask(current.worker) { .yield(index, $0) }
      workers[wanted.worker].post(.adopt(queues[index], feedCounters[index], idleSince: idleSince))
    }
    _ = ask(wanted.worker) { .route(port: index, ring: wanted.ring, $0) }
    places[index] = wanted
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
    }
    for (index, queue) in queues.enumerated() {
      var parts = index < queuePairCount ? [] : feedCounters[index].drops
      parts += queue.statistics.counters.map { "\($0.name) \($0.value)" }
      if !parts.isEmpty {
        lines.append("\(port.name) queue \(index): \(parts.joined(separator: ", "))")
      }
    }
    return lines.joined(separator: "\n")
  }

  /// What each port queue really got.
  public var queueModes: [String] { queues.map(\.mode) }
}
