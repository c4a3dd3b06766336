// Guest to host: from a transmit virtqueue into the frames of a port queue.
//
// One copy: the bytes of a chain, however it is cut, become one linear private frame, or several
// where a packet is larger than a frame.  After the copy the guest cannot change what was checked;
// its chain is done and goes back at once, in order.
// "No linear head": nothing is assumed about which descriptor holds the header or where the packet
// starts.  A turn takes chains as long as there are frames for any packet; without frames it takes
// none, and the guest's ring fills up: that is the back-pressure.
//
// Hostile: the chain and the header.  A bad one costs that packet (virtio 1.3, 5.1.6.2).
package import HostPort
package import Packet
import Linux
import SharedRing
package import Virtqueue

package final class TransmitPath {
  package let queue: AnyVirtqueue
  let isEnabled: Bool
  let headerLength: Int
  let framesPerPacket: Int
  let port: any HostPortQueue
  let counters: RingCounters
  let buffers: DeviceReadableBuffers
  let batch: FrameBatch
  let offloads: TransmitOffloads
  let headerCopy = HeaderCopy()
  let uncut: UncutPackets
  /// Packets may ask for it.
  let mayFillChecksums: Bool
  /// The port's device does it, of packets in one frame.
  let deviceFillsChecksums: Bool
  private let gathered: FixedBuffer<SingleBuffer>
  private let starved = HotState(false)
  private let held = HotState(Held())

  /// What a packet has got that waits for more frames.
  private struct Held {
    var frames = 0
    /// When it last got more; milliseconds.
    var since: UInt64 = 0
  }
  /// How long frames are kept while none come; milliseconds.
  private static let patience: UInt64 = 100

  /// Shortest frame that is one: an Ethernet header.
  package static let shortestFrame = 14

  /// - Parameter port: where frames go; it must belong to the same worker if the ring is enabled,
  ///   and is not touched if it is not.
  package init(_ config: VirtqueueConfig, port: any HostPortQueue, counters: RingCounters)
    throws(QueueFault)
  {
    queue = try AnyVirtqueue(activating: config)
    isEnabled = config.isEnabled
    headerLength = VirtioNetHeader.length(for: config.features)
    self.port = port
    framesPerPacket = port.framesPerPacket
    mayFillChecksums = config.features.contains(.csum)
    deviceFillsChecksums = port.fillsChecksums
    self.counters = counters
    buffers = DeviceReadableBuffers(capacity: max(1024, 2 * config.size))
    offloads = TransmitOffloads(features: config.features)
    uncut = UncutPackets(offloads.segments ? port.bulkLane : nil)
    batch = FrameBatch(
      capacity: offloads.segments
        ? FrameBatch.largestCapacity : FrameBatch.standardCapacity)
    gathered = FixedBuffer(repeating: .nothing, count: FrameBatch.standardCapacity)
  }

  deinit { if batch.count > 0 { port.transmit(batch, count: 0) } }

  /// Chains wait for frames: the port must be asked again although the driver will not kick.
  package var isStarved: Bool { starved.value }

  /// Whether packets that are cut by others have left since this was last asked.
  package func takeSentUncut() -> Bool { uncut.takeSent() }

  /// Moves at most one batch of packets.  Returns how many chains went back, or frames left, whichever
  /// is more.
  package func run() -> Int {
    switch queue {
    case .split(let queue): move(from: queue)
    case .packed(let queue): move(from: queue)
    }
  }

  @inline(__always)
  private func move<Queue: Virtqueue & ~Copyable>(from queue: borrowing Queue) -> Int {
    let waiting = queue.availableChains(FrameBatch.standardCapacity)
    if waiting == 0 {
      starved.value = false
      return 0
    }
    let most = min(waiting, FrameBatch.standardCapacity)
    guard isEnabled else { return discard(most, from: queue) }

    let wanted = min(most &* framesPerPacket, FrameBatch.standardCapacity)
    if batch.count < wanted { port.reserve(wanted &- batch.count, into: batch) }
    starved.value = batch.count < framesPerPacket
    if batch.count < framesPerPacket {
      if batch.count > 0 { port.transmit(batch, count: 0) }
      return 0
    }

    let room = unsafe Int(batch[0].length)
    uncut.isClosed = false
    var position = queue.position
    var chains = 0
    var filled = 0
    var packets = 0
    var bytes = 0
    loop: while chains < most && hasFrames(after: filled, for: most &- chains) {
      let start = position
      let usual = gather(
        min(most &- chains, batch.count &- filled &- framesPerPacket &+ 1), at: &position,
        of: queue, room: room)
      // Each of them has a frame, unless one before it took more.
      var limit = filled &+ usual
      var i = 0
      while true {
        while i < usual && filled < limit {
          let buffer = gathered[i]
          guard VirtioNetHeader(buffer.header).isPlain else { break }
          let length = buffer.byteCount &- VirtioNetHeader.modernLength
          unsafe buffer.copy(from: VirtioNetHeader.modernLength, to: batch[filled].data)
          unsafe batch[filled].length = UInt32(truncatingIfNeeded: length)
          queue.push(buffer.chain, length: 0)
          filled &+= 1
          packets &+= 1
          bytes &+= length
          i &+= 1
        }
        if i == usual { break }
        let buffer = gathered[i]
        guard let used = move(buffer, toFrame: filled, of: usual &- i) else {
          position = i == 0 ? start : gathered[i &- 1].next
          chains &+= i
          starved.value = true
          break loop
        }
        if used > 0 {
          filled &+= used
          packets &+= 1
          bytes &+= buffer.byteCount &- VirtioNetHeader.modernLength
        }
        queue.push(buffer.chain, length: 0)
        limit = batch.count &- framesPerPacket &+ 1
        i &+= 1
      }
      chains &+= usual
      if chains == most || !hasFrames(after: filled, for: most &- chains) { break }
      let used = moveChain(at: &position, of: queue, toFrame: filled)
      if used < 0 { break }
      if used > 0 {
        filled &+= used
        packets &+= 1
        bytes &+= buffers.byteCount &- headerLength
      }
      chains &+= 1
    }
    if starved.value && chains == 0 {
      keepFrames()
      return 0
    }
    queue.take(to: position)
    port.transmit(batch, count: filled)
    queue.publish()
    counters.chains.add(chains)
    counters.packets.add(packets)
    counters.bytes.add(bytes)
    if queue.callIfNeeded() { counters.calls.add(1) }
    return max(chains, filled)
  }

  /// A packet that waits for its frames keeps those that it has: another ring of this port would take
  /// them, again and again.  But not for ever, since several that wait so may have them all.
  @inline(never)
  private func keepFrames() {
    let now = MonotonicClock.milliseconds
    if batch.count != held.value.frames {
      held.value = Held(frames: batch.count, since: now)
    } else if now &- held.value.since >= TransmitPath.patience {
      port.transmit(batch, count: 0)
    }
  }

  /// Whether there are frames for a packet behind the first `filled`.  Packets that were cut may have
  /// taken those of others, for whose `chains` more are asked for then.
  @inline(__always)
  private func hasFrames(after filled: Int, for chains: Int) -> Bool {
    if filled &+ framesPerPacket <= batch.count { return true }
    return offloads.segments && reserveMore(after: filled, for: chains)
  }

  @inline(never)
  private func reserveMore(after filled: Int, for chains: Int) -> Bool {
    port.reserve(min(chains &* framesPerPacket, FrameBatch.standardCapacity), into: batch)
    return filled &+ framesPerPacket <= batch.count
  }

  /// Looks at up to `most` packets from `position` on that are each in one buffer with their header
  /// and fit a frame of `room` bytes, as modern drivers send nearly all; returns how many.
  ///
  /// All of them before the first is copied: the CPU then waits for many of their bytes at once, which
  /// are still in the cache of another one, the guest's.
  @inline(__always)
  private func gather<Queue: Virtqueue & ~Copyable>(
    _ most: Int, at position: inout QueuePosition, of queue: borrowing Queue, room: Int
  ) -> Int {
    guard headerLength == VirtioNetHeader.modernLength else { return 0 }
    var count = 0
    while count < most, let buffer = queue.single(at: position, writable: false) {
      let length = buffer.byteCount &- VirtioNetHeader.modernLength
      guard length >= TransmitPath.shortestFrame, length <= room else { break }
      buffer.prefetch()
      gathered[count] = buffer
      position = buffer.next
      count &+= 1
    }
    return count
  }

  /// Moves such a packet, the first of `count`, if its header asks for something or frames have run
  /// out; returns how many frames of the batch it took, 0 if it was dropped and counted, nil if it has
  /// to wait for more frames.
  @inline(never)
  private func move(_ buffer: SingleBuffer, toFrame index: Int, of count: Int) -> Int? {
    guard hasFrames(after: index, for: count) else { return nil }
    if moveUsual(buffer, toFrame: index) { return 1 }
    buffers.become(buffer)
    return copyPacket(toFrame: index)
  }

  /// Moves the packet at `position`, of any layout, and returns its chain; returns how many frames of
  /// the batch it took, 0 if it was dropped and counted, -1 if there is no chain, or one that has to
  /// wait for more frames.
  @inline(never)
  private func moveChain<Queue: Virtqueue & ~Copyable>(
    at position: inout QueuePosition, of queue: borrowing Queue, toFrame first: Int
  ) -> Int {
    let before = position
    switch queue.collect(at: &position, into: buffers) {
    case .chain(let chain):
      guard let used = copyPacket(toFrame: first) else {
        position = before
        starved.value = true
        return -1
      }
      queue.push(chain, length: 0)
      return used
    case .malformed(let chain, _):
      counters.drop(.malformedChain)
      queue.push(chain, length: 0)
      return 0
    case .none: return -1
    }
  }

  /// Copies the packet that was collected into the frames of the batch from `first` on; returns how
  /// many it took, 0 for a packet that was dropped and counted, nil if it has to wait for more.
  @inline(__always)
  private func copyPacket(toFrame first: Int) -> Int? {
    let length = buffers.byteCount &- headerLength
    if length < TransmitPath.shortestFrame {
      counters.drop(.tooShort)
      return 0
    }
    let frame = unsafe batch[first]
    let room = unsafe Int(frame.length)
    // The header is copied first and only the copy is looked at.
    let words = buffers.header(length: headerLength)
    let header = VirtioNetHeader(low: words.low, high: words.high)
    if !header.isPlain { return moveOffloaded(header, toFrame: first) }
    if length > room &* framesPerPacket {
      counters.drop(.tooLong)
      return 0
    }
    if length > room { return scatter(length, room: room, from: first) }
    unsafe buffers.copy(from: headerLength, length: length, to: frame.data)
    unsafe batch[first].length = UInt32(truncatingIfNeeded: length)
    return 1
  }

  /// Copies a packet that is larger than a frame; each frame of the batch has the same room.
  private func scatter(_ length: Int, room: Int, from first: Int) -> Int {
    var copied = 0
    var index = first
    while copied < length {
      let part = min(room, length &- copied)
      unsafe buffers.copy(from: headerLength &+ copied, length: part, to: batch[index].data)
      copied &+= part
      unsafe batch[index].length = UInt32(truncatingIfNeeded: part)
      unsafe batch[index].continues = copied < length
      index &+= 1
    }
    return index &- first
  }

  /// A disabled ring is drained, not stalled (vhost-user, "Ring states").
  @inline(__always)
  private func discard<Queue: Virtqueue & ~Copyable>(
    _ count: Int, from queue: borrowing Queue
  ) -> Int {
    var position = queue.position
    var chains = 0
    loop: while chains < count {
      switch queue.skip(at: &position) {
      case .chain(let chain), .malformed(let chain, _): queue.push(chain, length: 0)
      case .none: break loop
      }
      chains &+= 1
    }
    queue.take(to: position)
    queue.publish()
    counters.chains.add(chains)
    counters.drop(.ringDisabled, chains)
    if queue.callIfNeeded() { counters.calls.add(1) }
    return chains
  }
}

extension VirtioNetHeader {
  /// Bytes of the header on a virtqueue with these features (virtio 1.3, 5.1.6.1).
  package static func length(for features: VirtioFeatures) -> Int {
    features.contains(.version1) || features.contains(.mrgRxbuf) ? modernLength : legacyLength
  }
}
