// Host to guest: from a port queue's frames into the buffers of a receive virtqueue.
//
// The chains of a packet are looked at first and taken only when the packet fits: there is nothing
// to undo.  With MRG_RXBUF a packet may lie over several chains; its header says how many in
// num_buffers, and all of its used elements become visible together.  Without it one chain takes
// the packet, or the packet is dropped and counted, and num_buffers is 1 (virtio 1.3, 5.1.6.4).
// How many frames of the port the packet lies in has nothing to do with that, nor whether it was
// merged from several (ReceiveOffloads.swift); but one that finds no room is taken apart again.
//
// Hostile: the chains.  A malformed one goes back with length 0, together with the chains before
// it that the packet would have used, since chains go back in order; the packet waits for the next
// turn, so that a driver that offers nothing else cannot keep this worker here.
package import HostPort
import Packet
import SharedRing
package import Virtqueue

package final class ReceivePath {
  package let queue: AnyVirtqueue
  private let headerLength: Int
  private let mergeable: Bool
  package let counters: RingCounters
  private let buffers: DeviceWritableBuffers
  /// The chains of the packet at hand, and how many bytes they hold up to and including each.
  private let chains: FixedBuffer<DescriptorChain>
  private let ends: FixedBuffer<Int>
  private let gathered: FixedBuffer<SingleBuffer>
  private let state: HotState<State>
  /// What was negotiated.
  private let features: VirtioFeatures

  private struct State {
    var seen: QueuePosition
    /// What may be merged now.
    var kinds: MergeKinds
    /// Packets that become one, at most; 1: none are merged.
    var mostMerged = FrameBatch.standardCapacity
    /// Packets that were merged to the most since that was lowered.
    var fullMerges = 0
  }

  private enum Placement {
    case placed
    case dropped
    case noBuffers
  }

  package init(_ config: VirtqueueConfig, counters: RingCounters) throws(QueueFault) {
    queue = try AnyVirtqueue(activating: config)
    headerLength = VirtioNetHeader.length(for: config.features)
    mergeable = config.features.contains(.mrgRxbuf)
    self.counters = counters
    buffers = DeviceWritableBuffers(capacity: max(1024, 2 * config.size))
    chains = FixedBuffer(repeating: DescriptorChain(id: 0, slots: 0), count: config.size)
    ends = FixedBuffer(repeating: 0, count: config.size)
    gathered = FixedBuffer(repeating: .nothing, count: FrameBatch.standardCapacity)
    features = config.features
    state = HotState(State(seen: queue.position, kinds: config.features.mergeKinds))
  }

  /// Where `deliver` last found too few buffers: a kick is wanted for chains from there on.
  package var seenChains: QueuePosition { state.value.seen }

  /// There were buffers when `deliver` last found too few.
  var hasTooFewBuffers: Bool { seenChains != queue.position }

  // MARK: merging

  /// Of the offloads that were negotiated, the driver takes `offloads` now (CTRL_GUEST_OFFLOADS).
  package func setOffloads(_ offloads: VirtioFeatures) {
    let taken = features.subtracting(.guestOffloads.subtracting(offloads))
    state.value.kinds = taken.mergeKinds
  }

  /// Whether the frames of a batch may be merged, and marked as verified; to be asked once a batch.
  @inline(__always)
  func merges() -> Bool {
    if state.value.kinds.isEmpty { return false }
    return state.value.mostMerged > 1 || triesAgain()
  }

  /// Where there was no room for two, it is tried again after as many batches as packets elsewhere.
  @inline(never)
  private func triesAgain() -> Bool {
    state.value.fullMerges &+= 1
    guard state.value.fullMerges >= ReceivePath.fullMergesForMore else { return false }
    state.value.fullMerges = 0
    state.value.mostMerged = 2
    return true
  }

  /// Merges what may be merged for this driver.
  @inline(__always)
  func merge(_ batch: borrowing FrameBatch, by coalescer: borrowing Coalescer) {
    _ = coalescer.merge(batch, state.value.kinds, most: state.value.mostMerged)
  }

  /// A packet of so many was too large for the buffers that there are.
  func lowerMost(_ segments: Int) {
    state.value.mostMerged = max(1, min(state.value.mostMerged, segments) / 2)
    state.value.fullMerges = 0
  }

  /// A packet of so many had room.  Where the driver's buffers are few for good, a try for more must be
  /// rare: it costs the packets a wait.
  @inline(__always)
  private func raiseMost(_ segments: Int) {
    guard segments == state.value.mostMerged, segments < FrameBatch.standardCapacity else { return }
    state.value.fullMerges &+= 1
    if state.value.fullMerges >= ReceivePath.fullMergesForMore {
      state.value.fullMerges = 0
      state.value.mostMerged &+= 1
    }
  }
  private static let fullMergesForMore = 1024

  /// Puts frames into the guest's buffers, in order, until all are done or no buffers are left.
  /// Returns how many frames are done with, delivered or dropped; the guest does not see them
  /// before `publish`.
  package func deliver(_ batch: borrowing FrameBatch) -> Int {
    switch queue {
    case .split(let queue): deliver(batch, to: queue)
    case .packed(let queue): deliver(batch, to: queue)
    }
  }

  @inline(__always)
  private func deliver<Queue: Virtqueue & ~Copyable>(
    _ batch: borrowing FrameBatch, to queue: borrowing Queue
  ) -> Int {
    var done = 0
    var delivered = 0
    var bytes = 0
    let count = batch.count
    loop: while done < count {
      let usual = gather(batch, from: done, in: queue)
      if usual > 0 {
        for i in 0..<usual {
          let frame = unsafe batch[done &+ i]
          bytes &+= unsafe fill(gathered[i], with: frame, in: queue)
        }
        queue.take(to: gathered[usual &- 1].next)
        delivered &+= usual
        done &+= usual
        continue
      }
      var end = done
      var length = unsafe Int(batch[end].length)
      while unsafe batch[end].continues && end &+ 1 < count {
        end &+= 1
        unsafe length &+= Int(batch[end].length)
      }
      end &+= 1
      let isMerged = unsafe batch[done].isMerged
      switch place(batch, from: done, to: end, needed: headerLength &+ length, in: queue) {
      case .placed:
        delivered &+= 1
        bytes &+= length
        if isMerged {
          raiseMost(end &- done)
          // Not before: one that finds no room is taken apart again.
          counters.merged.add(1)
          counters.mergedSegments.add(end &- done)
        }
      case .dropped:
        if isMerged {
          Coalescer.split(batch, from: done, to: end)
          lowerMost(end &- done)
          continue loop
        }
        counters.drop(.tooLongForGuest)
      case .noBuffers: break loop
      }
      done = end
    }
    counters.packets.add(delivered)
    counters.bytes.add(bytes)
    return done
  }

  /// Makes what `deliver` did visible to the guest.
  package func publish() { queue.publish() }

  /// Interrupts the guest if it wants that.
  package func callIfNeeded() { if queue.callIfNeeded() { counters.calls.add(1) } }

  /// Looks at the buffers of the packets from frame `first` on that are each in one frame and fit one
  /// buffer, as they do nearly always; returns how many.
  ///
  /// All of them before the first is written: the CPU then waits for many of the buffers at once,
  /// which are still in the cache of another one, the guest's.
  @inline(__always)
  private func gather<Queue: Virtqueue & ~Copyable>(
    _ batch: borrowing FrameBatch, from first: Int, in queue: borrowing Queue
  ) -> Int {
    guard headerLength == VirtioNetHeader.modernLength else { return 0 }
    let most = min(batch.count &- first, gathered.count)
    var position = queue.position
    var count = 0
    while count < most, unsafe !batch[first &+ count].continues,
      let buffer = queue.single(at: position, writable: true),
      unsafe buffer.byteCount &- VirtioNetHeader.modernLength >= Int(batch[first &+ count].length)
    {
      buffer.prefetchForWriting()
      gathered[count] = buffer
      position = buffer.next
      count &+= 1
    }
    return count
  }

  /// Writes the packet in `frame` into such a buffer; returns its length.
  @inline(__always)
  private func fill<Queue: Virtqueue & ~Copyable>(
    _ buffer: SingleBuffer, with frame: Frame, in queue: borrowing Queue
  ) -> Int {
    let length = unsafe Int(frame.length)
    unsafe buffer.writeHeader(
      low: VirtioNetHeader.receivedHead(isVerified: frame.isVerified),
      high: VirtioNetHeader.receivedTail(bufferCount: 1))
    unsafe buffer.copy(frame.data, length: length, to: VirtioNetHeader.modernLength)
    queue.push(
      buffer.chain, length: UInt32(truncatingIfNeeded: VirtioNetHeader.modernLength &+ length))
    return length
  }

  /// Places a packet, `needed` bytes with its header, that lies in the frames from `first` to before
  /// `end`, in buffers of any layout.
  @inline(never)
  private func place<Queue: Virtqueue & ~Copyable>(
    _ batch: borrowing FrameBatch, from first: Int, to end: Int, needed: Int,
    in queue: borrowing Queue
  ) -> Placement {
    buffers.removeAll()
    var position = queue.position
    var count = 0
    while buffers.byteCount < needed {
      // More than the whole ring: the guest can never take it.
      if count == queue.size || (count > 0 && !mergeable) { return .dropped }
      let before = buffers.byteCount
      switch append(at: &position, in: queue) {
      case .chain(let chain):
        chains[count] = chain
        // Each buffer has room for a header (virtio 1.3, 5.1.6.3.1).  This also bounds the chains
        // that are walked for a packet.
        if buffers.byteCount &- before < headerLength {
          returnEmpty(count &+ 1, before: position, to: queue)
          return .noBuffers
        }
      case .malformed(let chain, _):
        chains[count] = chain
        returnEmpty(count &+ 1, before: position, to: queue)
        return .noBuffers
      case .none:
        state.value.seen = position
        return .noBuffers
      }
      ends[count] = buffers.byteCount
      count &+= 1
    }
    let header = header(of: batch, first)
    buffers.writeHeader(
      low: header.low,
      high: header.high
        | VirtioNetHeader.receivedTail(
          bufferCount: UInt16(truncatingIfNeeded: count)),
      length: headerLength)
    var place = DeviceWritableBuffers.Place()
    buffers.skip(headerLength, from: &place)
    for i in first..<end {
      let frame = unsafe batch[i]
      unsafe buffers.copy(frame.data, length: Int(frame.length), to: &place)
    }
    queue.didWrite(buffers, length: needed)
    var start = 0
    for i in 0..<count {
      let end = min(ends[i], needed)
      queue.push(chains[i], length: UInt32(truncatingIfNeeded: end &- start))
      start = end
    }
    queue.take(to: position)
    return .placed
  }

  /// The next chain, most often a single buffer.
  @inline(__always)
  private func append<Queue: Virtqueue & ~Copyable>(
    at position: inout QueuePosition, in queue: borrowing Queue
  ) -> ChainOutcome {
    if let buffer = queue.single(at: position, writable: true), buffers.append(buffer) {
      buffer.prefetchForWriting()
      position = buffer.next
      return .chain(buffer.chain)
    }
    return queue.append(at: &position, to: buffers)
  }

  /// The header of the packet that begins in frame `first`, without `num_buffers`.
  @inline(__always)
  private func header(of batch: borrowing FrameBatch, _ first: Int) -> (low: UInt64, high: UInt32) {
    let frame = unsafe batch[first]
    if unsafe frame.isMerged,
      let merged = unsafe ReceivedSegment(merged: frame.data, count: Int(frame.length))
    {
      return merged.mergedHeader.words
    }
    return unsafe (VirtioNetHeader.receivedHead(isVerified: frame.isVerified), 0)
  }

  @inline(__always)
  private func returnEmpty<Queue: Virtqueue & ~Copyable>(
    _ count: Int, before position: QueuePosition, to queue: borrowing Queue
  ) {
    for i in 0..<count { queue.push(chains[i], length: 0) }
    queue.take(to: position)
    state.value.seen = position
    counters.malformedBuffers.add(1)
  }
}
