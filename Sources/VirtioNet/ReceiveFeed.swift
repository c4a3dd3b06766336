// A port queue on its worker, with the frames that came from it and wait for guest buffers.
//
// At most one batch waits.  While the guest gives no buffers the port queue is left alone, so the
// worker can sleep instead of spinning on a readable socket; every `patience` the newest frames
// replace the waiting ones, which are dropped and counted: a guest that comes back gets what is
// happening now.
package import HostPort
import Linux
import SharedRing

package final class ReceiveFeed {
  package let port: any HostPortQueue
  private let state = HotState(State())

  private struct State {
    var isStalled = false
    var isWatched = false
    var idleSince: UInt64 = 0
    var shedAt: UInt64 = 0
  }

  /// The target, or nothing.
  private let targets = PinnedList<ReceivePath>()
  private let held = FrameBatch()
  private let spare = FrameBatch()
  private let unwanted = FrameBatch()
  private let coalescer = Coalescer()
  private let filter: ReceiveFilter
  private let counters: RingCounters

  /// How long frames wait for a guest without buffers, in milliseconds.
  package static let patience: UInt64 = 100

  /// - Parameters:
  ///   - counters: of the port queue: of frames that no ring took, and those that wait.
  ///   - filter: of the worker: which frames the guest wants at all.
  ///   - idleSince: when frames last went anywhere (`MonotonicClock`); 0: never.
  package init(
    _ port: any HostPortQueue, counters: RingCounters, filter: ReceiveFilter = ReceiveFilter(),
    idleSince: UInt64 = 0
  ) {
    self.port = port
    self.counters = counters
    self.filter = filter
    state.value.idleSince = idleSince
  }

  /// When frames last went anywhere; of use while there is no target.
  var idleSince: UInt64 { state.value.idleSince }

  /// Where frames go: the receive queue of the port's own pair, or of another one while that pair
  /// is not used by the guest; nil while there is no guest.
  package var target: ReceivePath? { targets.first { _ in true } }

  /// The guest has too few buffers for the waiting frames.
  package var isStalled: Bool { state.value.isStalled }

  /// Registered for readiness in the worker's epoll set; the worker's business.
  var isWatched: Bool {
    get { state.value.isWatched }
    set { state.value.isWatched = newValue }
  }

  /// Frames that were taken from the port and are with nobody else.
  package var heldCount: Int { held.count }

  /// Changes where frames go.  What arrived while nobody listened is stale and dropped, but a ring
  /// that only stops to be configured anew loses nothing.
  package func route(to path: ReceivePath?) {
    let now = MonotonicClock.milliseconds
    if target != nil && path == nil { state.value.idleSince = now }
    if target == nil && path != nil && now &- state.value.idleSince > ReceiveFeed.patience {
      drain(.noGuest)
    }
    // Another driver, or the same with other features.
    splitHeld()
    _ = targets.remove { _ in true }
    if let path { targets.append(path) }
    state.value.isStalled = false
    state.value.shedAt = now
  }

  /// The front-end has left: what waits, here and in the port, was for its guest, and so is what comes
  /// before the next one is there.
  package func forget() {
    drain(.noGuest)
    state.value.idleSince = 0
  }

  /// Moves at most one batch to the guest.  Returns how many frames were done with.
  @inline(__always)
  package func turn() -> Int {
    var moved = 0
    targets.forEach { moved = move(to: $0) }
    return moved
  }

  @inline(__always)
  private func move(to target: ReceivePath) -> Int {
    if held.count == 0 {
      port.receive(into: held)
      if held.count == 0 { return 0 }
      if !filter.passesAll {
        let dropped = sift(held)
        if held.count == 0 { return dropped }
      }
      if held.count > 1 && target.merges() { target.merge(held, by: coalescer) }
    }
    let done = target.deliver(held)
    target.publish()
    if done == held.count {
      // Before the call: the fill ring must not run dry while the guest is woken.
      port.recycle(held)
      state.value.isStalled = false
      if counters.waiting.current > 0 { countWaiting() }
    } else {
      stall(after: done)
    }
    target.callIfNeeded()
    return done
  }

  /// The guest's wishes have changed: frames that wait were let in by the former ones.
  package func siftHeld() {
    guard !filter.passesAll, sift(held) > 0 else { return }
    countWaiting()
    if held.count == 0 { state.value.isStalled = false }
  }

  @inline(never)
  private func countWaiting() { counters.waiting.set(UInt64(held.packetCount)) }

  /// Frames that wait are not merged any more, nor marked as verified: who gets them may not take
  /// that.
  package func splitHeld() { Coalescer.splitAll(held) }

  /// Drops the frames of `batch` that the guest does not want.  Returns how many.
  private func sift(_ batch: borrowing FrameBatch) -> Int {
    filter.sift(batch, into: unwanted)
    let dropped = unwanted.count
    if dropped > 0 {
      counters.drop(.filtered, unwanted.packetCount)
      port.recycle(unwanted)
    }
    return dropped
  }

  private func stall(after done: Int) {
    // A guest that is slow is left in peace; the patience is for one that gives nothing.
    guard !isStalled || done > 0 else { return }
    state.value.shedAt = MonotonicClock.milliseconds
    state.value.isStalled = true
    if done > 0 {
      for i in 0..<done { unsafe spare.append(held[i]) }
      port.recycle(spare)
      held.removeFirst(done)
    }
    countWaiting()
  }

  /// Replaces waiting frames by newer ones when they have waited long enough.
  package func shedIfDue() {
    shed()
    if isStalled { countWaiting() }
  }

  private func shed() {
    let now = MonotonicClock.milliseconds
    guard isStalled, !port.isAlwaysReadable, now &- state.value.shedAt >= ReceiveFeed.patience
    else { return }
    state.value.shedAt = now
    if splitIfTooLarge() { return }
    // Bounded: frames may arrive as fast as they are dropped.
    for _ in 0..<64 {
      port.receive(into: spare)
      if spare.count == 0 { return }
      if !filter.passesAll, sift(spare) > 0, spare.count == 0 { continue }
      counters.drop(.noGuestBuffers, held.packetCount)
      port.recycle(held)
      for i in 0..<spare.count { unsafe held.append(spare[i]) }
      spare.removeAll()
    }
  }

  /// A merged packet may need more buffers than this driver ever has: then its parts are tried.
  private func splitIfTooLarge() -> Bool {
    guard let target, target.hasTooFewBuffers, held.count > 1, unsafe held[0].isMerged else {
      return false
    }
    var segments = 1
    while unsafe held[segments &- 1].continues && segments < held.count { segments &+= 1 }
    target.lowerMost(segments)
    splitHeld()
    return true
  }

  /// Gives the waiting frames back, before the port queue moves to another worker.
  package func release() {
    counters.drop(.noGuest, held.packetCount)
    port.recycle(held)
    countWaiting()
    route(to: nil)
  }

  /// Drops everything that waits, here and in the port.
  private func drain(_ reason: DropReason) {
    state.value.isStalled = false
    defer { countWaiting() }
    for _ in 0..<64 {
      if held.count > 0 {
        counters.drop(reason, held.packetCount)
        port.recycle(held)
      }
      if port.isAlwaysReadable { return }
      port.receive(into: held)
      if held.count == 0 { return }
    }
  }
}
