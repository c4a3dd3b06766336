// A command of the control queue: bytes become a value (virtio 1.3, 5.1.6.5).
//
// Pure and total.  Hostile: every byte, and how many there are.  A command must be of exactly its
// size, and of a feature that was negotiated.
package import Packet
package import Virtqueue

package enum ControlCommand: Equatable, Sendable {
  /// Class VIRTIO_NET_CTRL_RX, by command number.
  package enum Switch: UInt8, Sendable, CaseIterable {
    case promiscuous, allMulticast, allUnicast, noMulticast, noUnicast, noBroadcast
  }

  case receive(Switch, Bool)
  case tables(unicast: [MACAddress], multicast: [MACAddress])
  case address(MACAddress)
  case vlan(UInt16, isWanted: Bool)
  case announced
  case queuePairs(Int)
  /// Those of the offloads on receive that were negotiated that are wanted.
  case guestOffloads(VirtioFeatures)

  /// Bytes of a command at most: address tables of more than ten thousand entries.
  package static let maximumSize = 1 << 16

  /// Why a command is not one.
  package enum Refusal: Error, Equatable, Sendable {
    /// No such class or command, or one that needs a feature which was not negotiated.
    case unknown
    case wrongSize
    case wrongValue
  }

  /// - Parameter bytes: class, command, and what is specific to it.
  package init(_ bytes: [UInt8], features: VirtioFeatures) throws(Refusal) {
    guard bytes.count >= 2 else { throw .wrongSize }
    let data = Array(bytes[2...])
    func check(_ size: Int) throws(Refusal) { if data.count != size { throw .wrongSize } }
    func need(_ feature: VirtioFeatures) throws(Refusal) {
      if !features.contains(feature) { throw .unknown }
    }
    switch (bytes[0], bytes[1]) {
    case (0, let number):
      guard let chosen = Switch(rawValue: number) else { throw .unknown }
      try need(number <= Switch.allMulticast.rawValue ? .ctrlRx : .ctrlRxExtra)
      try check(1)
      guard data[0] <= 1 else { throw .wrongValue }
      self = .receive(chosen, data[0] == 1)
    case (1, 0):
      try need(.ctrlRx)
      self = try ControlCommand.tables(data)
    case (1, 1):
      try need(.ctrlMacAddr)
      guard let address = MACAddress(bytes: data) else { throw .wrongSize }
      guard address.isAssignable else { throw .wrongValue }
      self = .address(address)
    case (2, let number):
      try need(.ctrlVlan)
      guard number <= 1 else { throw .unknown }
      try check(2)
      let vlan = UInt16(data.number(at: 0, count: 2))
      guard vlan < 4096 else { throw .wrongValue }
      self = .vlan(vlan, isWanted: number == 0)
    case (3, 0):
      try need(.guestAnnounce)
      try check(0)
      self = .announced
    case (4, 0):
      try need(.mq)
      try check(2)
      self = .queuePairs(Int(data.number(at: 0, count: 2)))
    case (5, 0):
      try need(.ctrlGuestOffloads)
      try check(8)
      let wanted = VirtioFeatures(rawValue: data.number(at: 0, count: 8))
      guard wanted.isSubset(of: features.intersection(.guestOffloads)) else { throw .wrongValue }
      self = .guestOffloads(wanted)
    default: throw .unknown
    }
  }

  /// Two tables: how many addresses, 4 bytes, and the addresses.
  private static func tables(_ data: [UInt8]) throws(Refusal) -> ControlCommand {
    var rest = data[...]
    func next() throws(Refusal) -> [MACAddress] {
      guard rest.count >= 4 else { throw .wrongSize }
      let count = Array(rest.prefix(4)).number(at: 0, count: 4)
      rest = rest.dropFirst(4)
      guard count <= UInt64(rest.count / 6) else { throw .wrongSize }
      let part = rest.prefix(6 * Int(count))
      rest = rest.dropFirst(part.count)
      return (0..<Int(count)).compactMap {
        MACAddress(bytes: part[part.startIndex + 6 * $0..<part.startIndex + 6 * $0 + 6])
      }
    }
    let unicast = try next()
    let multicast = try next()
    guard rest.isEmpty else { throw .wrongSize }
    guard !unicast.contains(where: \.isMulticast), multicast.allSatisfy(\.isMulticast) else {
      throw .wrongValue
    }
    return .tables(unicast: unicast, multicast: multicast)
  }
}

extension ReceiveMode {
  mutating func set(_ chosen: ControlCommand.Switch, _ isOn: Bool) {
    switch chosen {
    case .promiscuous: promiscuous = isOn
    case .allMulticast: allMulticast = isOn
    case .allUnicast: allUnicast = isOn
    case .noMulticast: noMulticast = isOn
    case .noUnicast: noUnicast = isOn
    case .noBroadcast: noBroadcast = isOn
    }
  }
}
