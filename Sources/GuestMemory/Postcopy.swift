// Guest memory that is still arriving: the second half of a postcopy migration (vhost-user
// specification, "Migration" and POSTCOPY_*).
//
// The front-end holds the other end of the descriptor: it is told of every touch of a page that is
// not there, fetches the page from the old host and wakes who waits.  A region is registered before
// anybody can touch it, so a mistake elsewhere costs a wait and never a page of zeros that the
// guest's own would have come for.
//
// A worker that waits for a page cannot be reached, and the control thread waits for workers.  If
// the front-end dies meanwhile, nobody would be left to notice.  So a thread watches its socket, and
// puts private zeros in place of the memory when it hangs up; the rings are stopped then as always.
import Glibc
public import Linux
import Synchronization

public final class Postcopy {
  private let arriving: ArrivingRegions
  private let ended: EventDescriptor
  private var watch: PinnedThread?

  /// - Parameter frontEnd: the socket whose hang-up means that no page will come any more.
  public init(frontEnd: CInt) throws(Errno) {
    let arriving = try ArrivingRegions()
    let ended = try EventDescriptor()
    // Numbers are used again after a close: the thread has a descriptor of its own.
    let socket = EventDescriptor(
      adopting: OwnedDescriptor(
        adopting: try checkedCall { fcntl(frontEnd, F_DUPFD_CLOEXEC, 0) }))
    watch = try PinnedThread(name: "postcopy") {
      if Postcopy.hangsUp(socket.raw, before: ended.raw) { arriving.abandon() }
    }
    self.arriving = arriving
    self.ended = ended
  }

  deinit { stopWatching() }

  /// What the front-end reads faults from.
  public var descriptor: CInt { arriving.faults.descriptor.raw }

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

  private func stopWatching() {
    ended.signal()
    if let thread = watch.take() { thread.join() }
  }

  /// Waits until the socket hangs up, or nobody wants to know any more.
  private static func hangsUp(_ socket: CInt, before ended: CInt) -> Bool {
    var pollers = [
      // A hang-up is reported unasked.
      pollfd(fd: socket, events: 0, revents: 0),
      pollfd(fd: ended, events: Int16(POLLIN), revents: 0),
    ]
    while true {
      pollers[0].revents = 0
      pollers[1].revents = 0
      guard unsafe poll(&pollers, 2, -1) >= 0 || errno == EINTR else { return false }
      if pollers[1].revents != 0 { return false }
      if pollers[0].revents != 0 { return true }
    }
  }
}

/// The registered regions, which control thread and watch share.
@safe
private final class ArrivingRegions: Sendable {
  let faults: UserFaults
  private let regions = Mutex<[MemoryRegion]>([])

  init() throws(Errno) { faults = try UserFaults() }

  func register(_ region: MemoryRegion) throws(Errno) {
    try unsafe faults.register(region.window.pages)
    regions.withLock { $0.append(region) }
  }

  func keep(_ memory: GuestMemory) {
    regions.withLock { regions in
      regions.removeAll { region in !memory.regions.contains { $0 === region } }
    }
  }

  func finish() {
    regions.withLock { regions in
      for region in regions { unsafe faults.unregister(region.window.pages) }
      regions = []
    }
  }

  func abandon() {
    regions.withLock { regions in
      for region in regions { unsafe faults.abandon(region.window.pages) }
      regions = []
    }
  }
}
