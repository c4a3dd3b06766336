// Two lanes to one interface: frames by the AF_XDP socket, packets that are to be cut by a packet
// socket.
//
// Nothing may overtake what went before it.  AF_XDP's frames go to the driver past every queueing
// discipline, and to another hardware queue perhaps.  So a queue is in one lane at a time, and changes
// only when the one it leaves is empty: AF_XDP's when every frame has come back by the completion
// ring, that of the packet socket when it has no byte on its way.  Nobody waits for that: until then a
// large packet is cut and its segments go as frames, and frames go by the packet socket.
//
// The tempting wrong form: to look at the TX ring alone.  What the kernel has taken from it is in the
// driver's queue, and the packet socket's may be served first.
import AFXDP
import Linux
import SharedRing
import Synchronization

extension XDPQueue {
  func sendUncut(_ packet: borrowing GatheredPacket, isRepeatable: Bool) -> BulkOutcome {
    guard gate.isOpen.load(ordering: .relaxed) else { return .cut }
    if !lane.isInUse && !isEmpty() {
      count(bulkBusy, 1)
      return .cut
    }
    guard sendWaiting(), lane.staysInLine() else { return .wait }
    // Those that waited may have left by the other lane just now.
    if !lane.isInUse && !isEmpty() { return .cut }
    switch lane.send(packet) {
    case .sent:
      lane.isInUse = true
      count(bulkPackets, 1)
      return .taken
    case .full: return .wait
    case .dropped:
      if isRepeatable && lane.dropsWhole && !lane.isBusy {
        // Not for want of room: it is none that kernel and device can cut.
        count(bulkRefused, 1)
        return .cut
      }
      // Or a part of it is on its way.
      lane.isInUse = true
      if isRepeatable && lane.isPatient(isCut: true) { return .wait }
      count(bulkPackets, 1)
      count(deviceRefused, 1)
      return .taken
    case .linkDown:
      count(linkDown, 1)
      return .taken
    case .refused:
      count(bulkRefused, 1)
      return .cut
    }
  }

  /// Whether AF_XDP has no frame on its way.  Those that were handed out are not.
  private func isEmpty() -> Bool {
    if hasEveryFrame { return true }
    _ = flush()
    let stray = socket.rings.value.reap()
    if stray > 0 { count(strays, stray) }
    return hasEveryFrame
  }

  private var hasEveryFrame: Bool {
    socket.rings.value.transmitFrames.count &+ Int(link.value.handedOut)
      == socket.rings.value.transmitFrames.capacity
  }

  /// As `transmit`, while the lane is in use.
  @inline(never)
  func transmitByLane(_ batch: borrowing FrameBatch, count: Int) {
    for i in 0..<count { unsafe lane.waiting.append(batch[i]) }
    giveBack(count..<batch.count, of: batch)
    link.value.handedOut &-= UInt32(truncatingIfNeeded: batch.count)
    batch.removeAll()
    _ = sendWaiting()
  }

  /// Sends the frames that wait for the packet socket, as many as it takes; returns whether that was
  /// all of them.  Their number is bounded by the transmit budget, and a guest without frames waits.
  @inline(never)
  func sendWaiting() -> Bool {
    if lane.state.value.isLeaving { return leaveLane() }
    var done = 0
    var end = 0
    loop: while done < lane.waiting.count {
      guard lane.staysInLine() else { break }
      switch lane.send(from: done, end: &end) {
      case .sent: count(bulkFrames, 1)
      case .full: break loop
      case .dropped:
        if lane.isPatient(isCut: false) { break loop }
        count(bulkFrames, 1)
        count(deviceRefused, 1)
      case .linkDown: count(linkDown, 1)
      case .refused:
        // The socket has narrower limits for a frame with more than one tag than AF_XDP, where it goes
        // when nothing is before it.
        lane.state.value.isLeaving = !lane.isBusy
        break loop
      }
      giveBack(done..<end, of: lane.waiting)
      done = end
    }
    if done > 0 { lane.waiting.removeFirst(done) }
    countWaiting()
    return lane.state.value.isLeaving ? leaveLane() : lane.waiting.count == 0
  }

  /// To the frames that are free.
  private func giveBack(_ frames: Range<Int>, of batch: borrowing FrameBatch) {
    for i in frames { unsafe socket.rings.value.transmitFrames.push(batch[i].token) }
  }

  private func countWaiting() {
    bulkWaiting.store(UInt64(lane.waiting.packetCount), ordering: .relaxed)
  }

  /// Puts the frames that wait into the TX ring; returns whether that was all of them.
  private func leaveLane() -> Bool {
    let count = lane.waiting.count
    var done = count
    if link.value.isDown && !linkIsUpAgain() {
      countLinkDown(lane.waiting, 0..<count)
      giveBack(0..<count, of: lane.waiting)
    } else {
      // Frames that are handed out have been promised their places.
      let places = freePlaces(UInt32(truncatingIfNeeded: count))
      done = enqueue(lane.waiting, Int(places))
    }
    lane.waiting.removeFirst(done)
    countWaiting()
    guard done == count else { return false }
    lane.leave()
    return true
  }
}
