// What the driver of an interface says of XDP and AF_XDP, read from the kernel's netdev family of
// generic netlink (Documentation/netlink/specs/netdev.yaml; Linux 6.3 and newer).  Any user may ask,
// and nothing happens to the interface.
import CLinux
import Glibc

/// A driver's own statement; it may depend on how the interface is configured at the moment.
public struct DriverFeatures: Equatable, Sendable {
  /// enum netdev_xdp_act.
  public struct XDP: OptionSet, Equatable, Sendable {
    public let rawValue: UInt64
    public init(rawValue: UInt64) { self.rawValue = rawValue }
    /// Runs XDP programs itself.
    public static let basic = XDP(rawValue: 1 << 0)
    /// Carries out XDP_REDIRECT, which AF_XDP sockets live on.
    public static let redirect = XDP(rawValue: 1 << 1)
    public static let zeroCopy = XDP(rawValue: 1 << 3)
    /// Gives programs packets of several fragments.
    public static let fragments = XDP(rawValue: 1 << 5)
  }

  /// enum netdev_xsk_flags.
  public struct TransmitMetadata: OptionSet, Equatable, Sendable {
    public let rawValue: UInt64
    public init(rawValue: UInt64) { self.rawValue = rawValue }
    public static let timestamp = TransmitMetadata(rawValue: 1 << 0)
    public static let checksum = TransmitMetadata(rawValue: 1 << 1)
  }

  public var xdp: XDP
  /// Most descriptors of one packet in zero-copy mode; nil if the kernel does not say (it does if
  /// the driver has zero-copy, since 6.6).
  public var zeroCopySegments: Int?
  /// Nil before Linux 6.8.
  public var transmitMetadata: TransmitMetadata?

  public init(
    xdp: XDP, zeroCopySegments: Int? = nil, transmitMetadata: TransmitMetadata? = nil
  ) {
    self.xdp = xdp
    self.zeroCopySegments = zeroCopySegments
    self.transmitMetadata = transmitMetadata
  }

  /// What the driver of an interface says; nil if the kernel has no such family.
  public static func read(interfaceIndex: Int) throws(Errno) -> DriverFeatures? {
    let socket = try NetlinkSocket(NETLINK_GENERIC)
    guard let family = try familyNumber(of: "netdev", socket) else { return nil }
    // NETDEV_CMD_DEV_GET with NETDEV_A_DEV_IFINDEX.
    var body = genericHeader(command: 1)
    body.appendAttribute(1, interfaceIndex)
    guard let answer = try socket.ask(family, body).first else { return nil }
    return DriverFeatures(attributes: answer.attributes(after: 4))
  }

  /// - Parameter attributes: NETDEV_A_DEV_…, by number.
  init?(attributes: [Int: [UInt8]]) {
    func number(_ attribute: Int) -> UInt64? {
      attributes[attribute].map { UInt64(bitPattern: Int64($0.load(0, bytes: 8))) }
    }
    guard let features = number(3) else { return nil }
    xdp = XDP(rawValue: features)
    zeroCopySegments = attributes[4]?.load(0)
    transmitMetadata = number(6).map(TransmitMetadata.init(rawValue:))
  }

  /// Nil if the kernel has no family of this name.
  private static func familyNumber(
    of name: String, _ socket: borrowing NetlinkSocket
  ) throws(Errno) -> Int? {
    // CTRL_CMD_GETFAMILY with CTRL_ATTR_FAMILY_NAME, to GENL_ID_CTRL.
    var body = genericHeader(command: 3)
    body.appendAttribute(2, Array(name.utf8) + [0])
    do throws(Errno) {
      // CTRL_ATTR_FAMILY_ID
      return try socket.ask(0x10, body).first?.attributes(after: 4)[1]?.load(0, bytes: 2)
    } catch Errno(ENOENT) {
      return nil
    }
  }

  /// genlmsghdr: command, version, reserved.
  private static func genericHeader(command: UInt8) -> [UInt8] { [command, 1, 0, 0] }
}
