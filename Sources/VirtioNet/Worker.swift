// One thread of the data path: it owns a set of port queues and a set of virtqueues and moves
// packets between them, in turns, until nothing moves; then it waits as `WaitPolicy` says, and while
// it spins nobody kicks it.
//
// The control plane reaches it by messages only.  A queue is started and stopped between two
// turns, so stopping answers when nothing touches the guest's memory any more.
//
// Going to sleep is the delicate moment: kicks are wanted again, then every ring is looked at once
// more (Notification.swift).  Kick descriptors are watched edge-triggered and never read: a system
// call less per wake-up.
//
// While the kernel has all frames, or does not take more, the worker looks again by itself, at
// intervals that follow the device: often enough that it never runs dry, rarely enough to have some
// work each time.  Nothing reports completions of a driver that works on the UMEM itself; and in
// copy mode, where EPOLLOUT does, it reports each single one, which woke a worker seven times as
// often for the same packets.
//
// A socket in an epoll set makes the kernel call the set for each single frame that it receives or
// has sent, whether anybody sleeps there or not: more than the whole rest of our work on a packet.
// So a port queue is watched only where the worker does sleep, and no longer once it is busy.
package import GuestMemory
package import HostPort
package import Linux
import SharedRing
package import Virtqueue

package enum WorkerMessage: Sendable {
  /// The port queue is the one of the ring's own pair.
  case startQueue(VirtqueueConfig, any HostPortQueue, RingCounters, Reply<QueueStart>)
  case stopQueue(Int, Reply<VringBase?>)
  /// The port queue comes, from another worker perhaps; nobody has listened to it since then.
  case adopt(any HostPortQueue, RingCounters, idleSince: UInt64)
  /// Gives the port queue up; answers since when nobody listens to it.
  case yield(Int, Reply<UInt64>)
  /// Frames of port queue `port` go to receive ring `ring`.
  case route(port: Int, ring: Int?, Reply<Bool>)
  /// Other translations for every ring behind a vIOMMU.
  case translate(Translations, Reply<Bool>)
  case refuse(TranslationMiss, Reply<Bool>)
  /// Only such frames reach the guest from now on.
  case filter(ReceiveMode, Reply<Bool>)
  /// Of the offloads on receive that were negotiated, only these are wanted from now on.
  case offloads(VirtioFeatures, Reply<Bool>)
  case send([UInt8], port: Int, Reply<Bool>)
  /// The front-end has left: what waits for its guest is dropped.
  case forget
  /// Reads counters between two turns, when they add up.
  case read(@Sendable () -> [CounterPart: String], Reply<[CounterPart: String]>)
  /// Shows the number as a sign of life.
  case showSign(UInt64)
  case end
}

package enum QueueStart: Sendable {
  case running
  case refused(String)
}

package final class Worker {
  private let mailbox: Mailbox<WorkerMessage>
  private let log: @Sendable (String) -> Void
  private let epoll: EpollSet

  private let transmit = PinnedList<TransmitPath>()
  private let receive = PinnedList<ReceivePath>()
  private let feeds = PinnedList<ReceiveFeed>()
  private let filter = ReceiveFilter()
  /// What drivers want of the offloads on receive that they have negotiated.
  private var offloads = VirtioFeatures.guestOffloads
  /// Kick descriptors by ring, as they are registered.
  private var kicks: [Int: EventDescriptor] = [:]
  /// Rings without a kick descriptor: they have to be looked at without being asked.
  private var unkicked: Set<Int> = []
  private var faultsReported: Set<Int> = []
  /// By ring: where it lies, and where what happens to it is counted.
  private var memories: [Int: (memory: GuestMemory, counters: RingCounters)] = [:]
  /// By ring behind a vIOMMU: who gets to hear what translations it lacks.
  private var misses: [Int: Mailbox<TranslationMiss>] = [:]
  private let polling: Polling
  private let counters: WorkerCounters
  private var isRunning = true

  /// Turns between two looks at what is rarely due.
  private static let choreTurns: UInt32 = 1024
  /// How long it sleeps at least, and at most, while the kernel has frames; in nanoseconds.
  private static let naps: (shortest: UInt64, longest: UInt64) = (50_000, 1_000_000)
  /// Work after a nap that was not too short.
  private static let napYield = FrameBatch.standardCapacity / 2
  /// Frames without a sleep after which port queues are no longer watched: to stop and start again
  /// costs what being watched costs for about thirty.
  private static let busyFrames = 256

  package init(
    mailbox: Mailbox<WorkerMessage>, polling: Polling = Polling(),
    counters: WorkerCounters = WorkerCounters(), log: @escaping @Sendable (String) -> Void
  ) throws(Errno) {
    self.mailbox = mailbox
    self.polling = polling
    self.counters = counters
    self.log = log
    epoll = try EpollSet()
    // By edge: mail is often read between `post`'s two steps, before its wake-up is written, and
    // that wake-up would stay readable and keep this thread awake until the next message.
    try epoll.add(mailbox.wakeUp.raw, [.readable, .edge], tag: 0)
  }

  /// The thread's body: returns after `.end`.
  package func run() {
    var policy = WaitPolicy(polling)
    var nap = Worker.naps.shortest
    var hasNapped = false
    var turns: UInt32 = 0
    var movedAwake = 0
    while isRunning {
      if readMail() { continue }
      let moved = turn()
      if !misses.isEmpty { reportMisses() }
      let pending = flush()
      if hasNapped {
        nap =
          moved >= Worker.napYield
          ? max(nap / 2, Worker.naps.shortest) : min(2 &* nap, Worker.naps.longest)
        hasNapped = false
      }
      turns &+= 1
      if turns % Worker.choreTurns == 0 { doChores() }
      var sleeps = policy.sleeps(
        moved: moved > 0, isBulk: moved > 0 && hasSentUncut(), now: MonotonicClock.nanoseconds)
      if moved == 0 && !hasRings {
        policy.rest()
        sleeps = true
      }
      counters.idleTime.set(policy.idleTime)
      if sleeps {
        reportFaults()
        counters.sleeps.add(1)
        hasNapped = sleep(pending: pending, nap: nap)
        if !hasNapped { nap = Worker.naps.shortest }
        movedAwake = 0
      } else if moved == 0 {
        spinPause()
      } else if movedAwake < Worker.busyFrames {
        movedAwake &+= moved
        if movedAwake >= Worker.busyFrames { feeds.forEach { watch($0, false) } }
      }
    }
  }

  /// Without rings there is nothing to wait for but mail.
  private var hasRings: Bool { transmit.count &+ receive.count > 0 }

  /// Does what the control plane asked for.  Returns whether it asked for anything.
  package func readMail() -> Bool {
    guard mailbox.hasMail else { return false }
    mailbox.drain(handle)
    return true
  }

  /// One batch for every queue.  Returns how much moved.
  ///
  /// Transmit first: a packet that comes back at once is there when receive looks.
  @inline(never)
  package func turn() -> Int {
    var moved = 0
    transmit.forEach { moved &+= $0.run() }
    feeds.forEach { moved &+= $0.turn() }
    return moved
  }

  /// Returns whether frames still wait for the kernel to take them.
  @inline(never)
  package func flush() -> Bool {
    var pending = false
    feeds.forEach { if $0.port.flush() { pending = true } }
    return pending
  }

  /// Whether the last turn sent packets that are cut by others.
  private func hasSentUncut() -> Bool {
    var any = false
    transmit.forEach { if $0.takeSentUncut() { any = true } }
    return any
  }

  private func doChores() {
    feeds.forEach { $0.shedIfDue() }
    reportFaults()
  }

  // MARK: sleeping

  /// - Parameters:
  ///   - pending: frames wait for the kernel to take them.
  ///   - nap: how long to sleep if the kernel has frames that are needed.
  /// - Returns: whether it has.
  private func sleep(pending: Bool, nap: UInt64) -> Bool {
    var again = false
    var isCongested = pending
    transmit.forEach { path in
      if path.isStarved {
        isCongested = true
      } else if path.queue.enableKicks() {
        again = true
      }
    }
    var timeout = isCongested ? nap : unkicked.isEmpty ? nil : Worker.naps.longest
    feeds.forEach { feed in
      if feed.isStalled {
        if let target = feed.target, target.queue.enableKicks(beyond: target.seenChains) {
          again = true
        }
        if timeout == nil { timeout = ReceiveFeed.patience &* 1_000_000 }
      } else if feed.port.hasFramesWaiting && feed.target != nil {
        again = true
      }
      watch(feed, feed.target != nil && !feed.isStalled)
    }
    if !again && !mailbox.hasMail { epoll.wait(nanoseconds: timeout) }
    transmit.forEach { $0.queue.disableKicks() }
    feeds.forEach { feed in
      guard feed.isStalled else { return }
      feed.target?.queue.disableKicks()
      feed.shedIfDue()
    }
    return isCongested
  }

  /// Watches a port queue, or loses interest in it: a socket that stays readable while nobody may
  /// read it would keep the worker awake.  One that is readable already is reported when it is added.
  private func watch(_ feed: ReceiveFeed, _ wanted: Bool) {
    guard wanted != feed.isWatched, let fd = feed.port.descriptor else { return }
    feed.isWatched = wanted
    guard wanted else { return epoll.remove(fd) }
    do throws(Errno) {
      try epoll.add(fd, [.readable, .edge], tag: 1)
    } catch {
      feed.isWatched = false
      log("port queue \(feed.port.index): epoll: \(error)")
    }
  }

  // MARK: messages

  private func handle(_ message: WorkerMessage) {
    switch message {
    case .startQueue(let config, let port, let counters, let reply):
      reply.fulfil(start(config, port, counters))
    case .stopQueue(let ring, let reply):
      reply.fulfil(stop(ring))
    case .adopt(let port, let counters, let idleSince):
      adopt(port, counters, idleSince: idleSince)
    case .yield(let port, let reply):
      reply.fulfil(yield(port))
    case .route(let port, let ring, let reply):
      let path = ring.flatMap { ring in receive.first { $0.queue.index == ring } }
      feeds.first(where: { $0.port.index == port })?.route(to: path)
      reply.fulfil(true)
    case .translate(let table, let reply):
      translate(by: table)
      reply.fulfil(true)
    case .refuse(let miss, let reply):
      transmit.forEach { $0.queue.refuse(miss) }
      receive.forEach { $0.queue.refuse(miss) }
      reply.fulfil(true)
    case .filter(let mode, let reply):
      filter.set(mode)
      feeds.forEach { $0.siftHeld() }
      reply.fulfil(true)
    case .offloads(let offloads, let reply):
      self.offloads = offloads
      receive.forEach { $0.setOffloads(offloads) }
      feeds.forEach { $0.splitHeld() }
      reply.fulfil(true)
    case .send(let bytes, let port, let reply):
      send(bytes, port)
      reply.fulfil(true)
    case .forget: feeds.forEach { $0.forget() }
    case .read(let counters, let reply):
      feeds.forEach { $0.port.countFrames() }
      reply.fulfil(counters())
    case .showSign(let number): counters.sign.set(number)
    case .end:
      isRunning = false
    }
  }

  private func start(
    _ config: VirtqueueConfig, _ port: any HostPortQueue, _ counters: RingCounters
  ) -> QueueStart {
    do throws(QueueFault) {
      if config.index % 2 == 0 {
        let path = try ReceivePath(config, counters: counters)
        path.setOffloads(offloads)
        receive.append(path)
        path.queue.disableKicks()
        path.queue.signalCall()
      } else {
        let path = try TransmitPath(config, port: port, counters: counters)
        transmit.append(path)
        path.queue.disableKicks()
        path.queue.signalCall()
      }
    } catch {
      counters.ringFaults.add(1)
      return .refused("\(error)")
    }
    memories[config.index] = (config.memory, counters)
    misses[config.index] = config.translation?.misses
    if let kick = config.kick {
      do throws(Errno) {
        try epoll.add(kick.raw, [.readable, .edge], tag: 2)
        kicks[config.index] = kick
      } catch {
        _ = stop(config.index)
        return .refused("its kick descriptor cannot be watched: \(error)")
      }
    } else {
      unkicked.insert(config.index)
    }
    return .running
  }

  private func stop(_ ring: Int) -> VringBase? {
    if let kick = kicks.removeValue(forKey: ring) { epoll.remove(kick.raw) }
    unkicked.remove(ring)
    faultsReported.remove(ring)
    misses[ring] = nil
    memories[ring] = nil
    if let path = transmit.remove(where: { $0.queue.index == ring }) { return path.queue.base }
    guard let path = receive.remove(where: { $0.queue.index == ring }) else { return nil }
    feeds.forEach { if $0.target === path { $0.route(to: nil) } }
    return path.queue.base
  }

  private func adopt(
    _ port: any HostPortQueue, _ counters: RingCounters, idleSince: UInt64
  ) {
    feeds.append(ReceiveFeed(port, counters: counters, filter: filter, idleSince: idleSince))
  }

  private func yield(_ port: Int) -> UInt64 {
    guard let feed = feeds.remove(where: { $0.port.index == port }) else { return 0 }
    feed.release()
    watch(feed, false)
    return feed.idleSince
  }

  private func send(_ bytes: [UInt8], _ port: Int) {
    guard let feed = feeds.first(where: { $0.port.index == port }) else { return }
    let batch = FrameBatch(capacity: 1)
    feed.port.reserve(1, into: batch)
    guard batch.count == 1, unsafe bytes.count <= Int(batch[0].length) else {
      feed.port.transmit(batch, count: 0)
      counters.droppedAnnouncements.add(1)
      return
    }
    counters.announcements.add(1)
    unsafe bytes.withUnsafeBytes {
      unsafe batch[0].data.copyMemory(from: $0.baseAddress!, byteCount: $0.count)
    }
    unsafe batch[0].length = UInt32(bytes.count)
    feed.port.transmit(batch, count: 1)
  }

  // MARK: vIOMMU

  private func translate(by table: Translations) {
    transmit.forEach { if misses[$0.queue.index] != nil { $0.queue.translate(by: table) } }
    receive.forEach { if misses[$0.queue.index] != nil { $0.queue.translate(by: table) } }
  }

  @inline(never)
  private func reportMisses() {
    transmit.forEach { path in
      if let miss = path.queue.takeMiss() { misses[path.queue.index]?.post(miss) }
    }
    receive.forEach { path in
      if let miss = path.queue.takeMiss() { misses[path.queue.index]?.post(miss) }
    }
  }

  /// A ring that turned out impossible is reported once; it stays, dead, until it is stopped.
  private func reportFaults() {
    transmit.forEach { path in
      report(path.queue.fault, path.queue.index) { path.queue.signalError() }
    }
    receive.forEach { path in
      report(path.queue.fault, path.queue.index) { path.queue.signalError() }
    }
  }

  private func report(_ fault: QueueFault?, _ ring: Int, _ signal: () -> Void) {
    guard let fault, faultsReported.insert(ring).inserted else { return }
    // What is in the place of memory that was taken away makes no ring; that is told by itself.
    if memories[ring]?.memory.isLost == true { return }
    memories[ring]?.counters.ringFaults.add(1)
    signal()
    log("ring \(ring) stopped: \(fault); the guest's driver must reset the device")
  }
}
