// What the device must take with it to another host beside the guest's memory and ring indices, as
// bytes: versioned and checked, since it comes back by way of a migration stream (vhost-user
// specification, "Migrating back-end state").
//
//   8 bytes   "VUXSTATE"
//   4         version
//   4         queue pairs
//   8         virtio features that were negotiated
//   4         length of the device's own part, which follows
//   8         FNV-1a of all of the above
//
// Little-endian.  Hostile: every byte of a state that is loaded.
public import Virtqueue

/// Why a device state was not saved or loaded.
public enum DeviceStateError: Error, Equatable, Sendable, CustomStringConvertible {
  case channel(String)
  case tooLong(limit: Int)
  case notAState
  case damaged
  case unknownVersion(UInt32)
  case queuePairs(saved: Int, here: Int)
  case features(missing: [String])
  case device(String)

  public var description: String {
    switch self {
    case .channel(let what): "the channel: \(what)"
    case .tooLong(let limit): "a state of more than \(limit) bytes"
    case .notAState: "what came is not the state of this device"
    case .damaged: "the state is cut off or damaged"
    case .unknownVersion(let version):
      "a state of version \(version), this back-end knows \(DeviceState.version)"
    case .queuePairs(let saved, let here):
      "the guest has \(saved) queue pairs, this device \(here); start it with --queues=\(saved)"
    case .features(let missing):
      "the guest uses features that are not offered here: \(missing.joined(separator: " "))"
    case .device(let why): why
    }
  }
}

public struct DeviceState: Equatable, Sendable {
  public static let version: UInt32 = 1
  /// Bytes of a state at most: fits a pipe, so that whoever writes it never waits.
  public static let maximumSize = 16384
  private static let magic = Array("VUXSTATE".utf8)
  private static let headerSize = 28

  public var queuePairs: Int
  public var features: VirtioFeatures
  /// The device's own part.
  public var device: [UInt8]

  public init(queuePairs: Int, features: VirtioFeatures, device: [UInt8]) {
    self.queuePairs = queuePairs
    self.features = features
    self.device = device
  }

  public var bytes: [UInt8] {
    var bytes = DeviceState.magic
    bytes.append(number: DeviceState.version)
    bytes.append(number: UInt32(truncatingIfNeeded: queuePairs))
    bytes.append(number: features.rawValue)
    bytes.append(number: UInt32(truncatingIfNeeded: device.count))
    bytes += device
    bytes.append(number: DeviceState.sum(bytes))
    return bytes
  }

  public init(_ bytes: [UInt8]) throws(DeviceStateError) {
    guard bytes.starts(with: DeviceState.magic) else { throw .notAState }
    guard bytes.count >= DeviceState.headerSize + 8 else { throw .damaged }
    let body = bytes.dropLast(8)
    var sum = PayloadReader(bytes.suffix(8))
    guard sum.next64() == DeviceState.sum(body) else { throw .damaged }
    var reader = PayloadReader(bytes.dropFirst(8))
    let version = reader.next32()
    guard version == DeviceState.version else { throw .unknownVersion(version) }
    queuePairs = Int(reader.next32())
    features = VirtioFeatures(rawValue: reader.next64())
    guard Int(reader.next32()) == body.count - DeviceState.headerSize else { throw .damaged }
    device = Array(body.dropFirst(DeviceState.headerSize))
  }

  private static func sum(_ bytes: some Sequence<UInt8>) -> UInt64 {
    bytes.reduce(0xcbf2_9ce4_8422_2325) { ($0 ^ UInt64($1)) &* 0x100_0000_01b3 }
  }
}
