// The bulk lane: packets that are to be cut leave uncut, beside the frames.
//
// A packet of up to 64 KiB costs one system call and the kernel's one copy, where its segments would
// cost a frame, a descriptor and, in copy mode, an skb each.  Whoever is better at it cuts: the card,
// or the kernel at the last moment before the driver, or nobody if it goes to another network
// namespace of this host.
import Synchronization

/// How a port queue takes packets uncut.
public struct BulkLane: Equatable, Sendable {
  /// Packets of fewer segments leave at less cost as frames, or at the same; measured in copy mode on
  /// a veth: 2 segments cost up to half as much again, 4 a little less, 44 a seventh.
  public var leastSegments: Int
  /// Largest segment, in bytes from the IP header on: nobody behind the lane looks at that.
  public var mtu: Int

  public init(leastSegments: Int = 4, mtu: Int) {
    self.leastSegments = leastSegments
    self.mtu = mtu
  }
}

/// What a port queue says to a packet that is to leave uncut.
public enum BulkOutcome: Equatable, Sendable {
  /// Done with: it has left, or it was lost and the port has counted that.
  case taken
  /// Come again: nothing was taken, and there is no room now.
  case wait
  /// Cut it yourself: it may not leave by the lane, or not now.
  case cut
}

/// `--bulk-lane`: whether large packets may leave uncut.
public enum BulkLaneChoice: String, CaseIterable, Sendable {
  /// Where that is known to be cheaper.
  case auto
  /// By packet socket.
  case packet
  /// Never.
  case off
}

extension BulkLaneChoice {
  /// Whether a queue gets a lane, and why.
  ///
  /// A zero-copy queue sends a frame without a system call or an skb, so the daemon's own cutting comes
  /// near the kernel's price for a large packet, while single frames that have to follow one by the lane
  /// cost a system call each.  What prevails depends on card and guest and has not been measured, hence
  /// not by itself.
  ///
  /// - Parameter peer: the other end of a veth, if it runs an XDP program: that may be an AF_XDP
  ///   program's, which can neither cut nor fill in checksums.
  func decide(
    segmentsTCP: Bool, zeroCopy: Bool, peer: String? = nil
  ) -> (isWanted: Bool, reason: String) {
    switch self {
    case .off: (false, "by --bulk-lane=off")
    case .packet where segmentsTCP: (true, "the interface segments TCP")
    case .packet: (true, "by --bulk-lane=packet: the kernel segments, the interface does not")
    case .auto where zeroCopy:
      (false, "zero-copy sends segments at little cost; --bulk-lane=packet to compare")
    case .auto where !segmentsTCP: (false, "the interface does not segment TCP")
    case .auto:
      if let peer {
        (false, "\(peer), the other end, runs an XDP program, for which segments must be cut")
      } else {
        (true, "the interface segments TCP")
      }
    }
  }
}

/// Whether the lanes of an interface are open: changed by the control thread, read by workers.
final class LaneGate: Sendable {
  let isOpen = Atomic<Bool>(true)
}
