// Everything that a driver configured by commands: a plain value, so that it can be saved on one
// host and restored on another.
public import Packet
public import Virtqueue

public struct ControlState: Equatable, Sendable {
  /// The address of configuration space, which a driver may change (CTRL_MAC_ADDR).
  public var address: MACAddress {
    didSet { receive.address = address.word }
  }
  public internal(set) var receive: ReceiveMode
  /// Queue pairs that the driver uses: one until it says otherwise (VQ_PAIRS_SET).
  public internal(set) var queuePairs = 1
  /// The driver is asked to announce itself, and has not acknowledged it yet (S_ANNOUNCE).
  public internal(set) var isToAnnounce = false
  /// The offloads on receive that the driver wants (GUEST_OFFLOADS_SET); nil: it has not said, and
  /// wants what it negotiated.
  public internal(set) var guestOffloads: VirtioFeatures?

  /// As after a reset.
  public init(address: MACAddress) {
    self.address = address
    receive = ReceiveMode(address: address)
  }
}

// MARK: Saving

/// Little-endian: version 1, address 6, switches 2, pairs 2, the number of unicast addresses 2 and
/// of multicast addresses 2, then these, 6 each, then 512 bytes of VLAN bits.  What was negotiated is not in
/// it: the front-end says so again.  Version 2 has 8 bytes more at the end, the offloads; it is written
/// only where the driver has chosen them, so that others are read by daemons that know version 1.
extension ControlState {
  private static let version: UInt8 = 1
  private static let versionWithOffloads: UInt8 = 2
  private static let headSize = 15

  public var encoded: [UInt8] {
    let version =
      guestOffloads == nil ? ControlState.version : ControlState.versionWithOffloads
    var bytes = [version] + address.bytes
    let switches = receive.switches.enumerated().reduce(UInt16(0)) {
      $0 | ($1.element ? 1 : 0) << UInt16($1.offset)
    }
    let numbers = [
      switches, UInt16(queuePairs), UInt16(receive.unicast.count), UInt16(receive.multicast.count),
    ]
    for number in numbers { bytes.append(number, count: 2) }
    for word in receive.unicast + receive.multicast { bytes.append(word, count: 6) }
    for word in receive.vlans { bytes.append(word, count: 8) }
    if let guestOffloads { bytes.append(guestOffloads.rawValue, count: 8) }
    return bytes
  }

  /// Nil for bytes that `encoded` does not give.  Hostile: all of them.
  public init?(decoding bytes: [UInt8]) {
    var bytes = bytes
    var offloads: VirtioFeatures?
    if bytes.count >= ControlState.headSize + 8, bytes[0] == ControlState.versionWithOffloads {
      let chosen = VirtioFeatures(rawValue: bytes.number(at: bytes.count - 8, count: 8))
      guard chosen.isSubset(of: .guestOffloads) else { return nil }
      offloads = chosen
      bytes.removeLast(8)
      bytes[0] = ControlState.version
    }
    guard bytes.count >= ControlState.headSize, bytes[0] == ControlState.version,
      let address = MACAddress(bytes: bytes[1..<7]), address.isAssignable
    else { return nil }
    let (switches, pairs) = (bytes.number(at: 7, count: 2), Int(bytes.number(at: 9, count: 2)))
    let unicast = Int(bytes.number(at: 11, count: 2))
    let multicast = Int(bytes.number(at: 13, count: 2))
    guard pairs >= 1, unicast <= ReceiveMode.tableLimit, multicast <= ReceiveMode.tableLimit,
      switches < 1 << UInt64(ReceiveMode.switchCount),
      bytes.count == ControlState.headSize + 6 * (unicast + multicast) + 512
    else { return nil }
    self.init(address: address)
    guestOffloads = offloads
    queuePairs = pairs
    receive.setSwitches((0..<ReceiveMode.switchCount).map { switches >> UInt64($0) & 1 == 1 })
    let tables = (0..<unicast + multicast).map {
      bytes.number(at: ControlState.headSize + 6 * $0, count: 6)
    }
    receive.unicast = Set(tables[..<unicast]).sorted()
    receive.multicast = Set(tables[unicast...]).sorted()
    guard receive.unicast == Array(tables[..<unicast]),
      receive.multicast == Array(tables[unicast...]),
      receive.unicast.allSatisfy({ $0 & 1 == 0 }), receive.multicast.allSatisfy({ $0 & 1 == 1 })
    else { return nil }
    for i in 0..<64 { receive.vlans[i] = bytes.number(at: bytes.count - 512 + 8 * i, count: 8) }
  }
}

extension ReceiveMode {
  static let switchCount = 8

  var switches: [Bool] {
    [
      promiscuous, allMulticast, allUnicast, noMulticast, noUnicast, noBroadcast, unicastOverflow,
      multicastOverflow,
    ]
  }

  mutating func setSwitches(_ values: [Bool]) {
    (promiscuous, allMulticast, allUnicast) = (values[0], values[1], values[2])
    (noMulticast, noUnicast, noBroadcast) = (values[3], values[4], values[5])
    (unicastOverflow, multicastOverflow) = (values[6], values[7])
  }
}

extension MACAddress {
  /// A guest's own address may be this: unicast, and not all zeros.
  var isAssignable: Bool { !isMulticast && word != 0 }
}

extension [UInt8] {
  mutating func append(_ number: some FixedWidthInteger & UnsignedInteger, count: Int) {
    for i in 0..<count { append(UInt8(truncatingIfNeeded: number >> (8 * i))) }
  }

  func number(at offset: Int, count: Int) -> UInt64 {
    self[offset..<offset + count].reversed().reduce(0) { $0 << 8 | UInt64($1) }
  }
}
