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
  let port: any HostPort
  let queues: [any HostPortQueue]
  let workers: [WorkerThread]
  let counters: [RingCounters]
  /// By port queue: what its frames met before a ring took them.
  let feedCounters: [RingCounters]
  /// A worker has answered; for one question at a time.
  let answered: EventDescriptor
  let log: @Sendable (String) -> Void
  /// Configuration space and control queue, for front-ends that forward them.
  let control: ControlPlane?
  /// Takes part in postcopy migrations, which front-ends have to be trusted for.
  let hasPostcopy: Bool

  private(set) var negotiated: VirtioFeatures = []
  /// Rings that run and are enabled.
  private var enabledRings: Set<Int> = []
  /// Rings that run, as the front-end wants them.
  private var configs: [Int: VirtqueueConfig] = [:]
  /// Pairs from here on are disabled, whatever the front-end says.
  private var usedPairs: Int
  /// What the workers filter by.
  private var receiveMode: ReceiveMode?
  /// What drivers take, of what they negotiated.
  private(set) var guestOffloads = VirtioFeatures.guestOffloads
  /// Why rings do not run, as it was logged.
  private var refusals: [Int: String] = [:]
  let placement: Placement
  private let offloads: Set<Offload>
  private(set) var places: [Placement.Place]
  /// The last announcement: whether the worker has come to it.
  private var announced: Reply<Bool>?
  /// Between `willChangeRings` and `didChangeRings`.
  private var isChanging = false

  /// Opens the port's queues and starts the workers; as below.
  public convenience init(
    port: any HostPort, queuePairs: Int, cpus: [Int], control: ControlOptions? = nil,
    polling: Polling = Polling(), offloads: Set<Offload> = Set(Offload.allCases),
    postcopy: Bool = false, log: @escaping @Sendable (String) -> Void
  ) throws(PortError) {
    try self.init(
      port: port, queues: NetDevice.openQueues(of: port), queuePairs: queuePairs, cpus: cpus,
      control: control, polling: polling, offloads: offloads, postcopy: postcopy, log: log)
  }

  /// Opens all queues of a port, which takes the privileges that its device does not need.
  public static func openQueues(
    of port: any HostPort
  ) throws(PortError) -> [any HostPortQueue] {
    var queues: [any HostPortQueue] = []
    for index in 0..<port.capabilities.queueCount { queues.append(try port.openQueue(index)) }
    return queues
  }

  /// Starts the workers.
  /// - Parameters:
  ///   - queues: all of the port's, open; at least one.
  ///   - queuePairs: at least 1.
  ///   - cpus: one worker for each, bound to it; empty: one unbound worker a queue pair.  There are
  ///     no more workers than queue pairs, or than port queues.
  ///   - control: offers configuration space and control queue.
  ///   - polling: how the workers wait.
  ///   - offloads: what drivers may leave to the device.
  ///   - postcopy: front-ends are trusted with this process, and may migrate guests by postcopy.
  ///   - log: called on any thread, at most `LogLimit.burst` times and then once a second.
  public init(
    port: any HostPort, queues: [any HostPortQueue], queuePairs: Int, cpus: [Int],
    control: ControlOptions? = nil, polling: Polling = Polling(),
    offloads: Set<Offload> = Set(Offload.allCases), postcopy: Bool = false,
    log: @escaping @Sendable (String) -> Void
  ) throws(PortError) {
    let portQueues = queues.count
    precondition(queuePairs >= 1 && portQueues >= 1)
    self.port = port
    self.offloads = offloads
    hasPostcopy = postcopy
    // A guest or front-end can cause lines as fast as it resets the device.
    let limit = LogLimit()
    let log: @Sendable (String) -> Void = { line in
      if let line = limit.admit(line) { log(line) }
    }
    self.log = log
    self.queues = queues
    let counters = (0..<2 * queuePairs).map { _ in RingCounters() }
    self.counters = counters
    feedCounters = (0..<portQueues).map { _ in RingCounters() }
    let placement = Placement(
      pairs: queuePairs, portQueues: portQueues,
      workers: cpus.isEmpty ? queuePairs : cpus.count)
    self.placement = placement
    usedPairs = queuePairs
    do throws(Errno) {
      answered = try EventDescriptor()
      self.control = if let control { try ControlPlane(control) } else { nil }
    } catch {
      throw PortError("no descriptor for the workers: \(error); raise the limit of open files")
    }
    var workers: [WorkerThread] = []
    for index in 0..<placement.workers {
      do throws(Errno) {
        workers.append(
          try WorkerThread(
            index: index, cpu: cpus.isEmpty ? nil : cpus[index], polling: polling, log: log))
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

  /// Whether all workers have read their messages since this was asked before; asks again.
  public func isAlive() -> Bool {
    workers.reduce(true) { $1.isAlive() && $0 }
  }

  // MARK: Device

  public var offeredFeatures: VirtioFeatures {
    var features: VirtioFeatures = [
      .mrgRxbuf, .mtu, .guestAnnounce, .notifyOnEmpty, .logAll, .anyLayout, .ringIndirectDesc,
      .ringEventIdx, .version1, .accessPlatform, .ringPacked, .inOrder, .orderPlatform,
    ]
    features.formUnion(.transmit(offloads))
    features.formUnion(.receive(offloads))
    if control != nil {
      features.formUnion(ControlPlane.offeredFeatures)
      if features.contains(.guestCsum) { features.insert(.ctrlGuestOffloads) }
    }
    if queuePairCount > 1 { features.insert(.mq) }
    return features
  }

  public var queuePairCount: Int { placement.pairs }
  public var maximumMTU: Int { port.capabilities.mtu }

  /// For the rings it is in their configuration.
  public func negotiate(_ features: VirtioFeatures) {
    refusals = [:]
    negotiated = features
    guard let control else { return }
    control.features = features
    setGuestOffloads(control.guestOffloads)
  }

  public func startQueue(_ config: VirtqueueConfig) {
    if isControlRing(config) { return startControlQueue(config) }
    guard config.index >= 0, config.index < 2 * queuePairCount else { return }
    configs[config.index] = config
    run(config)
  }

  private func run(_ wanted: VirtqueueConfig) {
    let ring = wanted.index
    var config = wanted
    config.isEnabled = wanted.isEnabled && ring / 2 < usedPairs
    if config.isEnabled { enabledRings.insert(ring) } else { enabledRings.remove(ring) }
    // A transmit ring needs its port queue beside it before it starts; a receive ring must run
    // before frames are sent its way.
    if ring % 2 == 1 { settle(placement.portQueue(of: ring)) }
    let started: QueueStart = ask(placement.worker(of: ring)) {
      .startQueue(config, queues[placement.portQueue(of: ring)], counters[ring], $0)
    }
    if case .refused(let reason) = started {
      configs[ring] = nil
      enabledRings.remove(ring)
      config.error?.signal()
      // A front-end has more to say of the ring, and each time it is tried again.
      if refusals.updateValue(reason, forKey: ring) != reason {
        log("ring \(ring) cannot be started: \(reason)")
      }
    } else {
      refusals[ring] = nil
    }
    settlePortQueues()
  }

  public func stopQueue(_ index: Int) -> VringBase? {
    if let control, control.queue?.index == index { return control.stop() }
    guard configs.removeValue(forKey: index) != nil else { return nil }
    return halt(index)
  }

  private func halt(_ index: Int) -> VringBase? {
    enabledRings.remove(index)
    let base = ask(placement.worker(of: index)) { .stopQueue(index, $0) }
    // The worker has let go of its port queues.
    for queue in places.indices where places[queue].ring == index { places[queue].ring = nil }
    settlePortQueues()
    return base
  }

  /// Disables the rings of pairs from `count` on and enables those before it, as SET_VRING_ENABLE
  /// would, but for rings that the front-end has disabled.
  func useQueuePairs(_ count: Int) {
    let previous = usedPairs
    guard count != previous else { return }
    usedPairs = count
    let wasChanging = isChanging
    willChangeRings()
    for ring in configs.keys.sorted() where (ring / 2 < previous) != (ring / 2 < count) {
      guard var config = configs[ring], config.isEnabled else { continue }
      // Nil: it had a fault, and stays stopped.
      guard let base = halt(ring) else { continue }
      config.base = base
      run(config)
    }
    isChanging = wasChanging
    settlePortQueues()
  }

  /// When this returns every worker filters by it.
  func setReceiveMode(_ mode: ReceiveMode) {
    guard mode != receiveMode else { return }
    receiveMode = mode
    for worker in workers.indices { _ = ask(worker) { .filter(mode, $0) } }
  }

  /// When this returns no worker delivers what `offloads` does not have.
  func setGuestOffloads(_ offloads: VirtioFeatures) {
    guard offloads != guestOffloads else { return }
    guestOffloads = offloads
    for worker in workers.indices { _ = ask(worker) { .offloads(offloads, $0) } }
  }

  /// Rings that stop and start again leave the port queues where they are.
  public func willChangeRings() { isChanging = true }

  public func didChangeRings() {
    isChanging = false
    settlePortQueues()
  }

  public func translate(by table: Translations) {
    for ring in configs.keys { configs[ring]?.translation?.table = table }
    control?.translate(by: table)
    askAll { .translate(table, $0) }
  }

  public func refuse(_ miss: TranslationMiss) {
    control?.refuse(miss)
    // A front-end can refuse without end while a worker waits for a page of its.
    askAll { .refuse(miss, $0) }
  }

  public func announce(_ address: (UInt8, UInt8, UInt8, UInt8, UInt8, UInt8)) {
    askToAnnounce()
    // The worker may wait for a page of the guest that has just come, which is no reason to keep the
    // control thread.  Until it goes on, one announcement says as much as many.
    if let announced, !announced.isFulfilled { return }
    let reply = Reply<Bool>(signalling: answered)
    announced = reply
    let frame = ReverseARP.announcement(of: address)
    workers[places[0].worker].post(.send(frame, port: 0, reply))
  }

  public func frontEndLeft() {
    // Before any ring of the next one: messages are read in order.
    for worker in workers { worker.post(.forget) }
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

  /// When this returns every worker has done it.
  private func askAll(_ message: (Reply<Bool>) -> WorkerMessage) {
    let replies = workers.map { worker in
      let reply = Reply<Bool>(signalling: answered)
      worker.post(message(reply))
      return reply
    }
    // They share an event; each looks at its own answer before it waits for that.
    for reply in replies { _ = reply.wait() }
  }

  /// Needs no resource, so a ring can always be stopped.
  private func ask<Answer: Sendable>(
    _ worker: Int, _ message: (Reply<Answer>) -> WorkerMessage
  ) -> Answer {
    let reply = Reply<Answer>(signalling: answered)
    workers[worker].post(message(reply))
    return reply.wait()
  }

  /// What each port queue really got.
  public var queueModes: [String] { queues.map(\.mode) }
}
