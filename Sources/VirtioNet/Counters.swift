// What happened to every packet, per ring and per port queue, and to a worker's time.  Each counter
// has one writer, the worker that runs the ring or owns the queue, so adding is a load and a store;
// anybody may read.
//
// The counters add up: what was taken is what arrived, what waits and the drops, whenever the worker
// is between two turns (docs/diagnosis.md, "How the counters add up").  So a packet that is lost has
// one reason, and counts once; one that was merged counts as the packets that came.
import Synchronization
import Virtqueue

/// Why a packet did not arrive.
package enum DropReason: Int, CaseIterable {
  /// Transmit: the descriptor chain is malformed (its head went back with length 0).
  case malformedChain
  /// Transmit: shorter than a virtio_net_hdr and an Ethernet header.
  case tooShort
  /// Transmit: longer than a frame of the port.
  case tooLong
  /// Transmit: asks for a checksum or segmentation that was not negotiated.
  case badHeader
  /// Transmit: header and packet contradict each other in what is to be summed or cut.
  case badOffload
  /// Transmit: to be cut into more segments than there can be frames for.
  case tooManySegments
  /// Transmit: the ring is disabled (SET_VRING_ENABLE 0).
  case ringDisabled
  /// Receive: the guest gave no buffers in time.
  case noGuestBuffers
  /// Receive: no buffer of the guest is large enough.
  case tooLongForGuest
  /// Receive: arrived while no guest was there to take it.
  case noGuest
  /// Receive: the guest's driver does not want such frames (addresses, VLANs).
  case filtered

  package var name: String {
    switch self {
    case .malformedChain: "malformed_chain"
    case .tooShort: "too_short"
    case .tooLong: "too_long"
    case .badHeader: "bad_header"
    case .badOffload: "bad_offload"
    case .tooManySegments: "too_many_segments"
    case .ringDisabled: "ring_disabled"
    case .noGuestBuffers: "no_guest_buffers"
    case .tooLongForGuest: "too_long_for_guest"
    case .noGuest: "no_guest"
    case .filtered: "filtered"
    }
  }
}

/// A counter with a single writer.
package struct Counter: ~Copyable, Sendable {
  private let value = Atomic<UInt64>(0)

  @inline(__always)
  package func add(_ amount: Int) {
    value.store(
      value.load(ordering: .relaxed) &+ UInt64(truncatingIfNeeded: amount), ordering: .relaxed)
  }

  /// For a sum that its writer keeps itself.
  @inline(__always)
  package func set(_ sum: UInt64) { value.store(sum, ordering: .relaxed) }

  package var current: UInt64 { value.load(ordering: .relaxed) }
}

/// The counters of one ring, or those of a port queue: what its frames met before a ring took them.
/// They outlive the connections that run it.
package final class RingCounters: Sendable {
  package init() {}

  /// Transmit: chains that were taken out of the available ring.
  package let chains = Counter()
  package let packets = Counter()
  package let bytes = Counter()
  package let calls = Counter()
  /// Receive chains of the driver that were malformed, returned with length 0.
  package let malformedBuffers = Counter()
  /// Times that the ring was found impossible, when it was to start or while it ran.
  package let ringFaults = Counter()
  /// Packets that were cut, and what they became.
  package let cut = Counter()
  package let segments = Counter()
  /// Received packets that were made by merging and delivered so, and what they were made of.
  package let merged = Counter()
  package let mergedSegments = Counter()
  /// Packets that a port queue's worker has taken from it and keeps for guest buffers; it goes up and
  /// down.
  package let waiting = Counter()
  private let dropCounters: [11 of Counter] = [
    Counter(), Counter(), Counter(), Counter(), Counter(), Counter(), Counter(), Counter(),
    Counter(), Counter(), Counter(),
  ]

  @inline(__always)
  package func drop(_ reason: DropReason, _ count: Int = 1) {
    dropCounters[reason.rawValue].add(count)
  }

  package func dropped(_ reason: DropReason) -> UInt64 { dropCounters[reason.rawValue].current }

  /// "dropped_no_guest 7" for each reason that there was.
  package var drops: [String] {
    DropReason.allCases.filter { dropped($0) > 0 }.map { "dropped_\($0.name) \(dropped($0))" }
  }

  /// What is printed of a port queue: the drops that happened, and what waits.
  package var feedSummary: [String] {
    drops + (waiting.current > 0 ? ["waiting \(waiting.current)"] : [])
  }

  /// "packets 12, bytes 840, calls 3" and the drops that happened.
  package var summary: String {
    var parts = ["packets \(packets.current)", "bytes \(bytes.current)", "calls \(calls.current)"]
    if chains.current > 0 { parts.insert("chains \(chains.current)", at: 0) }
    if cut.current > 0 {
      parts.append("cut \(cut.current)")
      parts.append("segments \(segments.current)")
    }
    if merged.current > 0 {
      parts.append("merged \(merged.current)")
      parts.append("merged_segments \(mergedSegments.current)")
    }
    parts += drops
    if malformedBuffers.current > 0 {
      parts.append("malformed_buffers \(malformedBuffers.current)")
    }
    if ringFaults.current > 0 { parts.append("ring_faults \(ringFaults.current)") }
    return parts.joined(separator: ", ")
  }
}

/// The counters of one worker.
package final class WorkerCounters: Sendable {
  package init() {}

  /// CPU time that it spent on looking for packets in vain, in nanoseconds.
  package let idleTime = Counter()
  package let sleeps = Counter()
  /// The number that it was last asked to show, if it reads its messages.
  package let sign = Counter()

  /// Frames of our own that were given to a port, and those that found no room: announcements.
  package let announcements = Counter()
  package let droppedAnnouncements = Counter()

  package var summary: String {
    var parts = ["idle_ns \(idleTime.current)", "sleeps \(sleeps.current)"]
    if announcements.current > 0 { parts.append("announcements \(announcements.current)") }
    if droppedAnnouncements.current > 0 {
      parts.append("dropped_announcements \(droppedAnnouncements.current)")
    }
    return parts.joined(separator: ", ")
  }
}
