// The frame that tells switches where a guest is now (vhost-user, VHOST_USER_SEND_RARP).

public enum ReverseARP {
  /// A broadcast "request reverse" (RFC 903) of `address` about itself, as live migration sends it;
  /// 60 bytes, without FCS.
  public static func announcement(
    of address: (UInt8, UInt8, UInt8, UInt8, UInt8, UInt8)
  ) -> [UInt8] {
    let mac = [address.0, address.1, address.2, address.3, address.4, address.5]
    var frame: [UInt8] = []
    frame += [0xff, 0xff, 0xff, 0xff, 0xff, 0xff]
    frame += mac
    frame += [0x80, 0x35]  // RARP
    frame += [0, 1, 0x08, 0, 6, 4]  // Ethernet, IPv4, their address lengths
    frame += [0, 3]  // request reverse
    frame += mac + [0, 0, 0, 0]
    frame += mac + [0, 0, 0, 0]
    frame += [UInt8](repeating: 0, count: 60 - frame.count)
    return frame
  }
}
