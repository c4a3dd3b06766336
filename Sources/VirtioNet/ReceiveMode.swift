// Which frames a guest wants to receive, as its driver said by the control queue (virtio 1.3,
// 5.1.6.5.1 to 5.1.6.5.3): the value that commands change.  `ReceiveFilter` is what the data path
// makes of it.
import Packet

public struct ReceiveMode: Equatable, Sendable {
  /// Addresses of each table.  A table with more is as good as none: all of its kind is received.
  static let tableLimit = 256

  /// On until a driver turns it off, for one that never says anything.
  var promiscuous = true
  var allMulticast = false
  var allUnicast = false
  var noMulticast = false
  var noUnicast = false
  var noBroadcast = false

  /// Ascending, each once, without those that overflowed.
  var unicast: [UInt64] = []
  var multicast: [UInt64] = []
  var unicastOverflow = false
  var multicastOverflow = false

  /// One bit for each identifier.
  var vlans = [UInt64](repeating: 0, count: 64)

  /// The address that is the guest's without being in a table.
  var address: UInt64

  /// A driver that has CTRL_RX decides by address; for any other one every address is right.
  var filtersAddresses = false
  /// CTRL_VLAN.
  var filtersVLANs = false

  init(address: MACAddress) { self.address = address.word }

  mutating func setTables(unicast: [MACAddress], multicast: [MACAddress]) {
    unicastOverflow = unicast.count > ReceiveMode.tableLimit
    multicastOverflow = multicast.count > ReceiveMode.tableLimit
    self.unicast = unicastOverflow ? [] : Set(unicast.map(\.word)).sorted()
    self.multicast = multicastOverflow ? [] : Set(multicast.map(\.word)).sorted()
  }

  /// - Parameter vlan: below 4096.
  mutating func setVLAN(_ vlan: UInt16, _ isWanted: Bool) {
    let bit = UInt64(1) << UInt64(vlan & 63)
    if isWanted { vlans[Int(vlan >> 6)] |= bit } else { vlans[Int(vlan >> 6)] &= ~bit }
  }
}
