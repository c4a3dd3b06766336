// Host to guest: from a port queue's frames into the buffers of a receive virtqueue.
//
// The chains of a packet are looked at first and taken only when the packet fits: there is nothing
// to undo.  With MRG_RXBUF a packet may lie over several chains; its header says how many in
// num_buffers, and all of its used elements become visible together.  Without it one chain takes
// the packet, or the packet is dropped and counted, and num_buffers is 1 (virtio 1.3, 5.1.6.4).
//
// Hostile: the chains.  A malformed one goes back with length 0, together with the chains before
// it that the packet would have used, since heads go back in order; the packet waits for the next
// turn, so that a driver that offers nothing else cannot keep this worker here.
package import HostPort
import Packet
import SharedRing
package import Virtqueue

package final class ReceivePath {
  package let queue: Virtqueue
  private let headerLength: Int
  private let mergeable: Bool
  package let counters: RingCounters
  private let buffers: DeviceWritableBuffers
  /// The chains of the packet at hand, and how many bytes they hold up to and including each.
  private let heads: FixedBuffer<UInt16>
  private let ends: FixedBuffer<Int>
  private let seen = HotState(0)

  private enum Placement {
    case placed
    case dropped
    case noBuffers
  }

  package init(_ config: VirtqueueConfig, counters: RingCounters) throws(QueueFault) {
    queue = try Virtqueue(activating: config)
    headerLength = VirtioNetHeader.length(for: config.features)
    mergeable = config.features.contains(.mrgRxbuf)
    self.counters = counters
    buffers = DeviceWritableBuffers(capacity: max(1024, 2 * config.size))
    heads = FixedBuffer(repeating: 0, count: config.size)
    ends = FixedBuffer(repeating: 0, count: config.size)
  }

  /// How many heads waited when `deliver` last found too few buffers: a kick is wanted only for
  /// more than those.
  package var seenHeads: Int { seen.value }

  /// Puts frames into the guest's buffers, in order, until all are done or no buffers are left.
  /// Returns how many frames are done with, delivered or dropped; the guest does not see them
  /// before `publish`.
  package func deliver(_ batch: borrowing FrameBatch) -> Int {
    var done = 0
    var delivered = 0
    var bytes = 0
    let count = batch.count
    loop: while done < count {
      let frame = unsafe batch[done]
      switch unsafe place(frame) {
      case .placed:
        delivered &+= 1
        unsafe bytes &+= Int(frame.length)
      case .dropped: counters.drop(.tooLongForGuest)
      case .noBuffers: break loop
      }
      done &+= 1
    }
    counters.packets.add(delivered)
    counters.bytes.add(bytes)
    return done
  }

  /// Makes what `deliver` did visible to the guest.
  package func publish() { queue.publish() }

  /// Interrupts the guest if it wants that.
  package func callIfNeeded() { if queue.callIfNeeded() { counters.calls.add(1) } }

  @inline(__always)
  private func place(_ frame: Frame) -> Placement {
    let needed = unsafe headerLength &+ Int(frame.length)
    buffers.removeAll()
    var count = 0
    while buffers.byteCount < needed {
      // More than the whole ring: the guest can never take it.
      if count == queue.size || (count > 0 && !mergeable) { return .dropped }
      let waiting = queue.availableHeads(count &+ 1)
      if waiting <= count {
        seen.value = waiting
        return .noBuffers
      }
      guard let head = queue.head(count) else { return .noBuffers }
      heads[count] = head
      let before = buffers.byteCount
      // Each buffer has room for a header (virtio 1.3, 5.1.6.3.1).  This also bounds the chains
      // that are walked for a packet.
      if queue.append(head, to: buffers) != nil || buffers.byteCount &- before < headerLength {
        returnEmpty(count &+ 1)
        seen.value = 0
        return .noBuffers
      }
      ends[count] = buffers.byteCount
      count &+= 1
    }
    buffers.writeHeader(
      low: 0,
      high: VirtioNetHeader.receivedTail(bufferCount: UInt16(truncatingIfNeeded: count)),
      length: headerLength)
    unsafe buffers.copy(frame.data, length: Int(frame.length), to: headerLength)
    commit(needed, over: count)
    return .placed
  }

  @inline(__always)
  private func commit(_ needed: Int, over count: Int) {
    var start = 0
    for i in 0..<count {
      let end = min(ends[i], needed)
      queue.push(heads[i], length: UInt32(truncatingIfNeeded: end &- start))
      start = end
    }
    queue.pop(count)
  }

  private func returnEmpty(_ count: Int) {
    for i in 0..<count { queue.push(heads[i], length: 0) }
    queue.pop(count)
    counters.malformedBuffers.add(1)
  }
}
