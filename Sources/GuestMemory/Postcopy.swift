// Guest memory that is still arriving: the second half of a postcopy migration (vhost-user
// specification, "Migration" and POSTCOPY_*).
//
// The front-end holds the other end of the descriptor: it is told of every touch of a page that is
// not there, fetches the page from the old host and wakes who waits.  A region is registered before
// anybody can touch it, so a mistake elsewhere costs a wait and never a page of zeros that the
// guest's own would have come for.
//
// A worker that waits for a page cannot be reached, and the control thread waits for workers.  If
// the front-end dies meanwhile, or serves no faults, nobody would be left to notice.  So a thread
// watches its socket, and the control thread; it puts private zeros in place of the memory when the
// front-end hangs up, or the control thread does not go on; the rings are stopped then as always.
import Glibc
public import Linux
import Synchronization

public final class Postcopy {
  /// How long the control thread may be kept from its work, in milliseconds.  A page that comes over
  /// a network takes some; who sends requests has to serve the faults that they cause.
  public static let patience: UInt64 = 5000

  private let arriving: ArrivingRegions
  private let busy = BusySince()
  private let ended: EventDescriptor
  private var watch: PinnedThread?

  /// - Parameters:
  ///   - frontEnd: the socket whose hang-up means that no page will come any more.
  ///   - peer: to be told when its pages did not come in time.
  public init(
    frontEnd: CInt, of peer: PeerAlarm? = nil, patience: UInt64 = Postcopy.patience
  ) throws(Errno) {
    let arriving = try ArrivingRegions()
    let ended = try EventDescriptor()
    // Numbers are used again after a close: the thread has a descriptor of its own.
    let socket = EventDescriptor(
      adopting: OwnedDescriptor(
        adopting: try checkedCall { fcntl(frontEnd, F_DUPFD_CLOEXEC, 0) }))
    let busy = busy
    watch = try PinnedThread(name: "postcopy") {
      switch Postcopy.wait(socket.raw, ended.raw, busy, patience) {
      case .ended: break
      case .hungUp: arriving.abandon()
      case .pagesMissing:
        arriving.abandon()
        peer?.raise(.pagesMissing)
      }
    }
    self.arriving = arriving
    self.ended = ended
  }

  deinit { stopWatching() }

  /// What the front-end reads faults from.
  public var descriptor: CInt { arriving.faults.descriptor.raw }

  /// For tests: how many it watches.
  package var regionCount: Int { arriving.count }

  /// From now on pages of this region that are missing are waited for.
  public func register(_ region: MemoryRegion) throws(Errno) { try arriving.register(region) }

  /// Regions that are not in `memory` go away.
  public func keep(_ memory: GuestMemory) { arriving.keep(memory) }

  /// All pages have come.
  public func finish() {
    stopWatching()
    arriving.finish()
  }

  /// No page will come any more, and the guest's memory is no longer of interest.
  public func abandon() {
    stopWatching()
    arriving.abandon()
  }

  /// The control thread has something to do from now on, or waits for events again.
  public func controlThread(isBusy: Bool) { busy.set(isBusy ? MonotonicClock.milliseconds : 0) }

  private func stopWatching() {
    ended.signal()
    if let thread = watch.take() { thread.join() }
  }

  private enum Outcome { case ended, hungUp, pagesMissing }

  /// Waits until the socket hangs up, the control thread does not go on, or nobody wants to know any
  /// more.
  private static func wait(
    _ socket: CInt, _ ended: CInt, _ busy: BusySince, _ patience: UInt64
  ) -> Outcome {
    var pollers = [
      // A hang-up is reported unasked.
      pollfd(fd: socket, events: 0, revents: 0),
      pollfd(fd: ended, events: Int16(POLLIN), revents: 0),
    ]
    while true {
      pollers[0].revents = 0
      pollers[1].revents = 0
      let interval = CInt(clamping: patience / 4)
      guard unsafe poll(&pollers, 2, interval) >= 0 || errno == EINTR else { return .ended }
      if pollers[1].revents != 0 { return .ended }
      if pollers[0].revents != 0 { return .hungUp }
      if busy.duration > patience { return .pagesMissing }
    }
  }
}

/// Since when the control thread has not been waiting for events.
private final class BusySince: Sendable {
  /// Milliseconds; 0: it waits for events.
  private let since = Atomic<UInt64>(0)

  func set(_ time: UInt64) { since.store(time, ordering: .relaxed) }

  var duration: UInt64 {
    let since = since.load(ordering: .relaxed)
    return since == 0 ? 0 : MonotonicClock.milliseconds &- since
  }
}

/// The registered regions, which control thread and watch share.
@safe
private final class ArrivingRegions: Sendable {
  let faults: UserFaults
  private struct Regions {
    var all: [MemoryRegion] = []
    /// Nobody watches any more.
    var areAbandoned = false
  }
  private let regions = Mutex(Regions())

  init() throws(Errno) { faults = try UserFaults() }

  var count: Int { regions.withLock { $0.all.count } }

  /// - Throws: EPIPE if the front-end has hung up: what it sent before may still be read.
  func register(_ region: MemoryRegion) throws(Errno) {
    try regions.withLock { (regions) throws(Errno) in
      guard !regions.areAbandoned else { throw Errno(EPIPE) }
      try unsafe faults.register(region.window.pages)
      if !regions.all.contains(where: { $0 === region }) { regions.all.append(region) }
    }
  }

  func keep(_ memory: GuestMemory) {
    regions.withLock { regions in
      regions.all.removeAll { region in !memory.regions.contains { $0 === region } }
    }
  }

  func finish() {
    regions.withLock { regions in
      for region in regions.all { unsafe faults.unregister(region.window.pages) }
      regions.all = []
    }
  }

  func abandon() {
    regions.withLock { regions in
      for region in regions.all { unsafe faults.abandon(region.window.pages) }
      regions = Regions(areAbandoned: true)
    }
  }
}
