// The receive filter against the specification's sentences, said once more in another way.
import GuestDriver
import Packet
import Testing
import Virtqueue

@testable import VirtioNet

@Suite("The receive filter")
struct ReceiveFilterTests {
  /// What a driver has said, in the words of virtio 1.3, 5.1.6.5.1 to 5.1.6.5.3.
  private struct Model {
    var switches: [ControlCommand.Switch: Bool] = [.promiscuous: true]
    var own: MACAddress
    var unicast: [MACAddress] = []
    var multicast: [MACAddress] = []
    var vlans: Set<UInt16> = []
    var features: VirtioFeatures

    func isOn(_ chosen: ControlCommand.Switch) -> Bool { switches[chosen] ?? false }

    func receives(_ destination: MACAddress, vlan: UInt16?) -> Bool {
      if features.contains(.ctrlRx), isOn(.promiscuous) { return true }
      if features.contains(.ctrlVlan), let vlan, !vlans.contains(vlan) { return false }
      guard features.contains(.ctrlRx) else { return true }
      if destination.bytes == [UInt8](repeating: 0xff, count: 6) { return !isOn(.noBroadcast) }
      if destination.isMulticast {
        if isOn(.noMulticast) { return false }
        return isOn(.allMulticast) || multicast.count > 256 || multicast.contains(destination)
      }
      if isOn(.noUnicast) { return false }
      return isOn(.allUnicast) || unicast.count > 256 || destination == own
        || unicast.contains(destination)
    }
  }

  private func address(_ number: Int, multicast: Bool) -> MACAddress {
    MACAddress(bytes: [multicast ? 1 : 2, 0, 0, 0, UInt8(number >> 8), UInt8(number & 0xff)])!
  }

  private func addressing(_ destination: MACAddress, vlan: UInt16?) -> FrameAddressing {
    let high = vlan.map { UInt64(0x0081) << 32 | UInt64($0.byteSwapped) << 48 } ?? 0x0008 << 32
    return FrameAddressing(low: destination.word | 0xabcd << 48, high: high, length: 60)
  }

  @Test("admits what the model receives, whatever commands came before", arguments: 0..<40)
  func againstModel(seed: UInt64) {
    var random = SeededGenerator(seed: seed)
    let features = VirtioFeatures(
      [.ctrlRx, .ctrlRxExtra, .ctrlVlan].filter { _ in .random(using: &random) })
    let own = address(1, multicast: false)
    var model = Model(own: own, features: features)
    var mode = ReceiveMode(address: own)
    mode.filtersAddresses = features.contains(.ctrlRx)
    mode.filtersVLANs = features.contains(.ctrlVlan)
    let filter = ReceiveFilter()
    for _ in 0..<60 {
      switch Int.random(in: 0..<4, using: &random) {
      case 0, 1:
        let chosen = ControlCommand.Switch.allCases.randomElement(using: &random)!
        let isOn = Bool.random(using: &random)
        model.switches[chosen] = isOn
        mode.set(chosen, isOn)
      case 2:
        // Now and then more than the tables hold.
        let counts = [0, 1, 5, 40, 256, 257]
        func some(_ multicast: Bool) -> [MACAddress] {
          (0..<counts.randomElement(using: &random)!).map { _ in
            address(.random(in: 0..<600, using: &random), multicast: multicast)
          }
        }
        model.unicast = some(false)
        model.multicast = some(true)
        mode.setTables(unicast: model.unicast, multicast: model.multicast)
      default:
        let vlan = UInt16.random(in: 0..<40, using: &random) * 105
        let isWanted = Bool.random(using: &random)
        if isWanted { model.vlans.insert(vlan) } else { model.vlans.remove(vlan) }
        mode.setVLAN(vlan, isWanted)
      }
      filter.set(mode)
      for _ in 0..<40 {
        var destination = address(
          .random(in: 0..<600, using: &random), multicast: .random(using: &random))
        if Int.random(in: 0..<8, using: &random) == 0 {
          destination = MACAddress(bytes: [UInt8](repeating: 0xff, count: 6))!
        }
        let vlan: UInt16? =
          Bool.random(using: &random) ? nil : .random(in: 0..<40, using: &random) * 105
        let admitted =
          filter.passesAll || filter.admits(addressing(destination, vlan: vlan))
        #expect(
          admitted == model.receives(destination, vlan: vlan),
          "\(destination) \(vlan.map(String.init) ?? "-") \(model)")
      }
    }
  }

  @Test("without a driver's word everything passes, at no cost for each frame")
  func passesAll() {
    let filter = ReceiveFilter()
    #expect(filter.passesAll)
    var mode = ReceiveMode(address: address(1, multicast: false))
    filter.set(mode)
    #expect(filter.passesAll, "nothing was negotiated")
    mode.filtersAddresses = true
    filter.set(mode)
    #expect(filter.passesAll, "promiscuous until the driver says otherwise")
    mode.promiscuous = false
    filter.set(mode)
    #expect(!filter.passesAll)
  }

  @Test("a packet of several frames goes or stays as a whole")
  func severalFrames() throws {
    var options = ScriptedPort.Options()
    options.framesPerPacket = 4
    options.frameSize = 256
    var fixture = try ReceiveFixture(port: options)
    var mode = ReceiveMode(address: address(1, multicast: false))
    mode.filtersAddresses = true
    mode.promiscuous = false
    fixture.filter.set(mode)
    let body = (0..<600).map { UInt8(truncatingIfNeeded: $0) }
    func frame(_ number: Int) -> [UInt8] { address(number, multicast: false).bytes + body }
    for _ in 0..<4 { try fixture.offer([2048]) }
    fixture.port[0].inject([frame(2), frame(1), frame(3), frame(1)])
    fixture.pump()
    #expect(try fixture.collect().map(\.frame) == [frame(1), frame(1)])
    #expect(fixture.counters.dropped(.filtered) == 2)
    #expect(fixture.port[0].isComplete)
    #expect(fixture.port.problems.isEmpty)
  }

  @Test("frames that wait for buffers are looked at again when the driver changes its mind")
  func waiting() throws {
    var fixture = try ReceiveFixture()
    let unwanted = address(2, multicast: false).bytes + [UInt8](repeating: 0, count: 54)
    fixture.port[0].inject([unwanted, unwanted])
    fixture.pump()
    #expect(fixture.feed.isStalled)
    var mode = ReceiveMode(address: address(1, multicast: false))
    mode.filtersAddresses = true
    mode.promiscuous = false
    fixture.filter.set(mode)
    fixture.feed.siftHeld()
    #expect(!fixture.feed.isStalled)
    #expect(fixture.feed.heldCount == 0)
    #expect(fixture.counters.dropped(.filtered) == 2)
    try fixture.offer([2048])
    fixture.pump()
    #expect(try fixture.collect().isEmpty)
    #expect(fixture.port[0].isComplete)
  }
}
