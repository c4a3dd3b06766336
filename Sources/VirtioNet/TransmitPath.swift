// Guest to host: from a transmit virtqueue into the frames of a port queue.
//
// One copy: the bytes of a chain, however it is cut, become one linear private frame.  After the
// copy the guest cannot change what was checked, its chain is done and goes back at once, in order.
// "No linear head": nothing is assumed about which descriptor holds the header or where the packet
// starts.  A turn takes as many chains as there are frames; without frames it takes none, and the
// guest's ring fills up: that is the back-pressure.
//
// Hostile: the chain and the header.  A bad one costs that packet (virtio 1.3, 5.1.6.2).
package import HostPort
package import Packet
import SharedRing
package import Virtqueue

package final class TransmitPath {
  package let queue: AnyVirtqueue
  let isEnabled: Bool
  private let headerLength: Int
  private let port: any HostPortQueue
  private let counters: RingCounters
  private let buffers: DeviceReadableBuffers
  private let batch: FrameBatch
  private let starved = HotState(false)

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
    self.counters = counters
    buffers = DeviceReadableBuffers(capacity: max(1024, 2 * config.size))
    batch = FrameBatch()
  }

  /// Chains wait for frames: the port must be asked again although the driver will not kick.
  package var isStarved: Bool { starved.value }

  /// Moves at most one batch of packets.  Returns how many chains went back.
  package func run() -> Int {
    switch queue {
    case .split(let queue): move(from: queue)
    }
  }

  @inline(__always)
  private func move<Queue: Virtqueue & ~Copyable>(from queue: borrowing Queue) -> Int {
    let waiting = queue.availableChains(batch.capacity)
    if waiting == 0 {
      starved.value = false
      return 0
    }
    guard isEnabled else { return discard(min(waiting, batch.capacity), from: queue) }

    port.reserve(min(waiting, batch.capacity), into: batch)
    let frames = batch.count
    starved.value = frames == 0
    if frames == 0 { return 0 }

    var position = queue.position
    var chains = 0
    var filled = 0
    var bytes = 0
    loop: while chains < frames {
      switch queue.collect(at: &position, into: buffers) {
      case .chain(let chain):
        let length = unsafe copyPacket(to: batch[filled])
        if length > 0 {
          unsafe batch[filled].length = UInt32(truncatingIfNeeded: length)
          filled &+= 1
          bytes &+= length
        }
        queue.push(chain, length: 0)
      case .malformed(let chain, _):
        counters.drop(.malformedChain)
        queue.push(chain, length: 0)
      case .none: break loop
      }
      chains &+= 1
    }
    queue.take(to: position)
    port.transmit(batch, count: filled)
    queue.publish()
    counters.packets.add(filled)
    counters.bytes.add(bytes)
    if queue.callIfNeeded() { counters.calls.add(1) }
    return chains
  }

  /// Copies the packet that was collected into `frame`; returns its length, or 0 for a packet that
  /// was dropped and counted.
  @inline(__always)
  private func copyPacket(to frame: Frame) -> Int {
    let length = buffers.byteCount &- headerLength
    if length < TransmitPath.shortestFrame {
      counters.drop(.tooShort)
      return 0
    }
    if unsafe length > Int(frame.length) {
      counters.drop(.tooLong)
      return 0
    }
    // The header is copied first and only the copy is looked at.
    let words = buffers.header(length: headerLength)
    let header = VirtioNetHeader(low: words.low, high: words.high)
    if !header.isPlain {
      counters.drop(.badHeader)
      return 0
    }
    unsafe buffers.copy(from: headerLength, length: length, to: frame.data)
    return length
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
