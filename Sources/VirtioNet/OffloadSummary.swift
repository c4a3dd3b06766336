// For people: which offloads a driver has negotiated, and who does the work of each.
import HostPort
import Virtqueue

/// Who does what, of a connection.
struct OffloadSummary: CustomStringConvertible {
  /// Negotiated.
  var features: VirtioFeatures
  /// Of the interface.
  var portName: String
  var deviceFillsChecksums: Bool
  var hasBulkLane: Bool

  var description: String {
    let cutter = hasBulkLane ? "\(portName) or the kernel (bulk lane)" : daemon
    return [
      "checksums: "
        + (features.contains(.csum) ? deviceFillsChecksums ? portName : daemon : guest),
      "segmentation: "
        + families("TCP", .hostTSO4, .hostTSO6, cutter) + ", "
        + families("UDP", .hostUSO, .hostUSO, cutter),
      // A packet that is not merged is looked at by the guest in any case.
      "received checksums: "
        + (features.contains(.guestCsum) && !features.mergeKinds.isEmpty
          ? "\(daemon) where it merges" : guest),
      "merging: "
        + families("TCP", .guestTSO4, .guestTSO6, daemon) + ", "
        + families("UDP", .guestUSO4, .guestUSO6, daemon),
    ].joined(separator: "; ")
  }

  private let daemon = "daemon"
  private let guest = "guest"

  init(
    features: VirtioFeatures, portName: String, deviceFillsChecksums: Bool, hasBulkLane: Bool
  ) {
    self.features = features
    self.portName = portName
    self.deviceFillsChecksums = deviceFillsChecksums
    self.hasBulkLane = hasBulkLane
  }

  /// Who does it for each version of IP.
  private func families(
    _ name: String, _ v4: VirtioFeatures, _ v6: VirtioFeatures, _ who: String
  ) -> String {
    let (has4, has6) = (features.contains(v4), features.contains(v6))
    if has4 == has6 { return "\(name) \(has4 ? who : guest)" }
    return "\(name)/IPv4 \(has4 ? who : guest), \(name)/IPv6 \(has6 ? who : guest)"
  }
}

extension NetDevice {
  /// Who does the work of each offload that the driver may leave to the device: "checksums: daemon;
  /// segmentation: TCP eth1 or the kernel (bulk lane), UDP guest; …".
  public var offloadSummary: String {
    OffloadSummary(
      features: negotiated, portName: port.name,
      deviceFillsChecksums: queues.contains { $0.fillsChecksums },
      hasBulkLane: queues.contains { $0.bulkLane != nil }
    ).description
  }
}
