// Large packets that leave uncut, where the port has a lane for them.
//
// The headers that leave are the private copy, with lengths and the pseudo-header's sum of ours, and
// so is the virtio-net header: nothing that a guest wrote there is believed, as when its packets are
// cut here.  The payload goes to the kernel from where it lies in guest memory; that copy is the only
// one.
import HostPort
import Linux
import Packet
import SharedRing
import Virtqueue

/// What one transmit ring needs for them.
struct UncutPackets: ~Copyable {
  /// Packets of fewer segments are cut here.
  let leastSegments: Int
  /// Largest segment, in bytes from the IP header on.
  fileprivate let mtu: Int
  fileprivate let packet: GatheredPacket
  fileprivate let headers = HeaderCopy()
  private let closed = HotState(false)
  fileprivate let sent = HotState(false)

  /// - Parameter lane: nil: there are none.
  init(_ lane: BulkLane?) {
    leastSegments = max(2, lane?.leastSegments ?? .max)
    mtu = lane?.mtu ?? 0
    packet = lane == nil ? GatheredPacket(capacity: 0) : GatheredPacket()
  }

  /// The port has said no, which is true for the rest of the turn: each further question would end a
  /// batch of frames.
  var isClosed: Bool {
    @inline(__always) get { closed.value }
    @inline(__always) nonmutating set { closed.value = newValue }
  }

  /// Whether the port has taken one since this was last asked.
  func takeSent() -> Bool {
    defer { sent.value = false }
    return sent.value
  }
}

extension TransmitPath {
  /// Hands the packet that was collected to the port as it is.  Behind frames that have not left yet
  /// (`first` of them) it has to wait for its turn.
  @inline(never)
  func sendUncut(_ plan: Segmentation, behind first: Int) -> BulkOutcome {
    // Others than the usual headers are not everywhere what the kernel, or a card, cuts well: what it
    // drops for that would look as if there were no room.
    guard !uncut.isClosed, plan.fitsUncut, plan.headers.areUsual,
      plan.longest &- plan.headers.networkStart <= uncut.mtu
    else { return .cut }
    if first > 0 { return .wait }
    let words = unsafe plan.uncutHeader(headerCopy.bytes).words
    uncut.packet.removeAll(header: words.low, words.high)
    unsafe plan.writeUncutHeaders(from: headerCopy.bytes, to: uncut.headers.bytes)
    var fits = unsafe uncut.packet.append(uncut.headers.bytes, count: plan.headerLength)
    unsafe buffers.forEachPiece(
      from: headerLength &+ plan.headerLength, length: plan.payloadLength
    ) { bytes, count in
      if unsafe !uncut.packet.append(bytes, count: count) { fits = false }
    }
    guard fits else { return .cut }
    // A datagram must not arrive twice; TCP does not mind.
    let isTCP = plan.headers.transport == FrameHeaders.tcp
    let outcome = port.sendUncut(uncut.packet, isRepeatable: isTCP)
    switch outcome {
    case .taken:
      uncut.sent.value = true
      counters.packets.add(1)
      counters.bytes.add(buffers.byteCount &- headerLength)
    case .cut: uncut.isClosed = true
    case .wait: break
    }
    return outcome
  }
}
