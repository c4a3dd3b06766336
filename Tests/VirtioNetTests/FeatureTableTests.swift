// The feature table says what the code does.
import HostPort
import Linux
import Packet
import Testing
import VhostUser
import VirtioNet
import Virtqueue

@Suite("Feature table")
struct FeatureTableTests {
  private struct Offered {
    var virtio: VirtioFeatures
    var vhostUser: ProtocolFeatures
  }

  /// What is offered in each configuration that a row's condition may speak of: for every
  /// condition one that fulfils it and one that does not.
  private static func configurations() throws -> [Offered] {
    let control = ControlOptions(address: MACAddress("52:54:00:12:34:56")!)
    let all = Set(Offload.allCases)
    let kinds: [(Int, ControlOptions?, Set<Offload>, Bool)] = [
      (1, nil, all, false), (2, nil, all, true), (1, control, [], false),
      (1, control, all, false), (1, nil, [.receiveChecksum], false),
    ]
    return try kinds.map { pairs, control, offloads, postcopy in
      let device = try NetDevice(
        port: NullPort(queueCount: pairs), queuePairs: pairs, cpus: [], control: control,
        offloads: offloads, postcopy: postcopy, log: { _ in })
      defer { device.stop() }
      var vhostUser = device.offeredProtocolFeatures
      #expect(vhostUser.contains(.pagefault) == (postcopy && UserFaults.areSupported))
      // Whatever this kernel has.
      if postcopy { vhostUser.insert(.pagefault) }
      return Offered(
        virtio: device.offeredFeatures.union(.protocolFeatures), vhostUser: vhostUser)
    }
  }

  @Test("offered are the bits of the table, in every configuration")
  func offered() throws {
    let configurations = try FeatureTableTests.configurations()
    compare(FeatureTable.virtio, configurations.map(\.virtio.rawValue))
    compare(FeatureTable.vhostUser, configurations.map(\.vhostUser.rawValue))
  }

  private func compare(_ rows: [FeatureRow], _ offers: [UInt64]) {
    for row in rows {
      let found = offers.map { $0 >> UInt64(row.bit) & 1 == 1 }
      switch row.offer {
      case .offered(when: nil, _, _): #expect(!found.contains(false), "\(row.name)")
      case .offered: #expect(Set(found).count == 2, "\(row.name)")
      case .leftOut: #expect(!found.contains(true), "\(row.name)")
      }
    }
    let known = rows.reduce(0) { $0 | UInt64(1) << UInt64($1.bit) }
    #expect(offers.allSatisfy { $0 & ~known == 0 }, "a bit that is offered has a row")
  }

  @Test("bits are in order, each once, with the names that log lines use")
  func names() {
    for rows in [FeatureTable.virtio, FeatureTable.vhostUser] {
      let bits = rows.map(\.bit)
      #expect(bits == Set(bits).sorted())
    }
    for row in FeatureTable.virtio {
      #expect(VirtioFeatures(rawValue: 1 << UInt64(row.bit)).namesOfBits == [row.name])
    }
    for row in FeatureTable.vhostUser {
      #expect(ProtocolFeatures(rawValue: 1 << UInt64(row.bit)).namesOfBits == [row.name])
    }
  }

  @Test("every protocol feature that the specification numbers has a row")
  func complete() {
    #expect(FeatureTable.vhostUser.map(\.bit) == Array(0...22))
  }

  @Test("the tables in Markdown have a line for every row, and say where a bit stands")
  func markdown() {
    let lines = FeatureTable.markdown.split(separator: "\n")
    let rows = FeatureTable.virtio + FeatureTable.vhostUser
    #expect(lines.count == 2 + 2 * 2 + rows.count)
    #expect(lines.contains { $0.hasPrefix("| `MQ` | 22 | with --queues above 1 | ") })
    #expect(lines.contains { $0.hasPrefix("| `XEN_MMAP` | 17 | no | ") && $0.hasSuffix(" |  |") })
    #expect(lines.filter { $0.hasPrefix("| `") }.allSatisfy { $0.split(separator: "|").count == 5 })
  }
}
