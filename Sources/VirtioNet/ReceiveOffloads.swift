// What a guest's driver takes over from the device when it receives: packets whose checksum was
// looked at already, and packets that were merged from several (virtio 1.3, 5.1.6.4).
//
// The frames of a batch that make one packet are put behind each other, all but the last marked
// `continues`, and those behind the first begin at their payload; the headers of the first are
// written anew.  So nothing is copied, frames go back by their tokens as ever, and a merged packet can
// be taken apart again: the headers of the others are still there, in front of their payload.
//
// Merged is what came in one batch: nothing waits for more.
import HostPort
import Packet
import Virtqueue

extension VirtioFeatures {
  /// What CTRL_GUEST_OFFLOADS can switch off and on again.
  static let guestOffloads: VirtioFeatures = [
    .guestCsum, .guestTSO4, .guestTSO6, .guestECN, .guestUSO4, .guestUSO6,
  ]

  /// What is offered so that drivers may take `offloads` over from the device.
  static func receive(_ offloads: Set<Offload>) -> VirtioFeatures {
    guard offloads.contains(.receiveChecksum) else { return [] }
    return offloads.contains(.merging) ? .guestOffloads : .guestCsum
  }

  /// What may be merged for a driver that has these features.
  var mergeKinds: MergeKinds {
    guard contains(.guestCsum) else { return [] }
    var kinds: MergeKinds = []
    if contains(.guestTSO4) { kinds.insert(.tcp4) }
    if contains(.guestTSO6) { kinds.insert(.tcp6) }
    if contains(.guestUSO4) { kinds.insert(.udp4) }
    if contains(.guestUSO6) { kinds.insert(.udp6) }
    if !kinds.isEmpty, contains(.guestECN) { kinds.insert(.ecn) }
    return kinds
  }
}
