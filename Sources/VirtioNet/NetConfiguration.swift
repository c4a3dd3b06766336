// struct virtio_net_config (virtio 1.3, 5.1.4): the configuration space of a network device.
//
// Little-endian.  What belongs to features that are never offered (receive-side scaling) is 0, and
// so is everything behind it, up to what a message can ask for: front-ends that know a longer
// structure get it.
import Packet

struct NetConfiguration: Equatable {
  static let size = 256
  /// Bytes of the address, which are the first ones.
  static let addressSize = 6

  private static let linkUp: UInt16 = 1
  private static let announce: UInt16 = 2

  var address: MACAddress
  var isLinkUp: Bool
  var isToAnnounce: Bool
  var queuePairs: Int
  var mtu: Int
  /// In Mbit/s; `UInt32.max`: unknown.
  var speed: UInt32
  /// 0 half, 1 full, 255 unknown.
  var duplex: UInt8

  var bytes: [UInt8] {
    var bytes = address.bytes
    let status =
      (isLinkUp ? NetConfiguration.linkUp : 0) | (isToAnnounce ? NetConfiguration.announce : 0)
    bytes.append(status, count: 2)
    bytes.append(UInt16(clamping: queuePairs), count: 2)
    bytes.append(UInt16(clamping: mtu), count: 2)
    bytes.append(speed, count: 4)
    bytes.append(duplex, count: 1)
    return bytes + [UInt8](repeating: 0, count: NetConfiguration.size - bytes.count)
  }
}
