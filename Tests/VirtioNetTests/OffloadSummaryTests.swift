// The line that tells who does what.
import Testing
import Virtqueue

@testable import VirtioNet

@Suite("Who does which offload")
struct OffloadSummaryTests {
  private func line(
    _ features: VirtioFeatures, nic: Bool = false, lane: Bool = false
  ) -> String {
    OffloadSummary(
      features: features, portName: "eth1", deviceFillsChecksums: nic, hasBulkLane: lane
    ).description
  }

  @Test("a driver without offloads does all of it")
  func none() {
    #expect(
      line([.version1])
        == "checksums: guest; segmentation: TCP guest, UDP guest; received checksums: guest; "
        + "merging: TCP guest, UDP guest")
  }

  @Test("each is done by the daemon, unless the card or the kernel does it")
  func all() {
    let every: VirtioFeatures = [
      .csum, .hostTSO4, .hostTSO6, .hostUSO, .guestCsum, .guestTSO4, .guestTSO6, .guestUSO4,
      .guestUSO6,
    ]
    #expect(
      line(every)
        == "checksums: daemon; segmentation: TCP daemon, UDP daemon; "
        + "received checksums: daemon where it merges; merging: TCP daemon, UDP daemon")
    #expect(line(every, nic: true).hasPrefix("checksums: eth1; segmentation: TCP daemon"))
    #expect(
      line(every, lane: true).contains(
        "segmentation: TCP eth1 or the kernel (bulk lane), UDP eth1 or the kernel (bulk lane)"))
  }

  @Test("what holds for one version of IP only is said so")
  func versions() {
    let line = line([.csum, .hostTSO4, .guestCsum, .guestTSO6])
    #expect(line.contains("TCP/IPv4 daemon, TCP/IPv6 guest, UDP guest; received"))
    #expect(line.contains("merging: TCP/IPv4 guest, TCP/IPv6 daemon, UDP guest"))
  }
}
