// vhost-user as a front-end writes it, from the specification and not from the module under test:
// request numbers, and messages of a 12-byte header and a payload, with descriptors beside them.
import CLinux
import Glibc
public import Linux

/// Requests of a front-end, by the specification's names.
public enum FrontEndRequest: UInt32, Sendable, CaseIterable {
  case getFeatures = 1
  case setFeatures = 2
  case setOwner = 3
  case resetOwner = 4
  case setMemTable = 5
  case setLogBase = 6
  case setLogFD = 7
  case setVringNum = 8
  case setVringAddr = 9
  case setVringBase = 10
  case getVringBase = 11
  case setVringKick = 12
  case setVringCall = 13
  case setVringErr = 14
  case getProtocolFeatures = 15
  case setProtocolFeatures = 16
  case getQueueNum = 17
  case setVringEnable = 18
  case sendRARP = 19
  case netSetMTU = 20
  case setBackendReqFD = 21
  case iotlbMessage = 22
  case setVringEndian = 23
  case getConfig = 24
  case setConfig = 25
  case getInflightFD = 31
  case setInflightFD = 32
  case resetDevice = 34
  case vringKick = 35
  case getMaxMemSlots = 36
  case addMemReg = 37
  case remMemReg = 38
  case setStatus = 39
  case getStatus = 40
}

/// Protocol feature bits.
public struct ProtocolFeatureBits: OptionSet, Sendable {
  public let rawValue: UInt64
  public init(rawValue: UInt64) { self.rawValue = rawValue }
  public static let multiqueue = ProtocolFeatureBits(rawValue: 1 << 0)
  public static let logShmFD = ProtocolFeatureBits(rawValue: 1 << 1)
  public static let rarp = ProtocolFeatureBits(rawValue: 1 << 2)
  public static let replyAck = ProtocolFeatureBits(rawValue: 1 << 3)
  public static let netMTU = ProtocolFeatureBits(rawValue: 1 << 4)
  public static let backendReq = ProtocolFeatureBits(rawValue: 1 << 5)
  public static let config = ProtocolFeatureBits(rawValue: 1 << 9)
  public static let inflightShmFD = ProtocolFeatureBits(rawValue: 1 << 12)
  public static let resetDevice = ProtocolFeatureBits(rawValue: 1 << 13)
  public static let configureMemSlots = ProtocolFeatureBits(rawValue: 1 << 15)
  public static let status = ProtocolFeatureBits(rawValue: 1 << 16)
  public static let all = ProtocolFeatureBits(rawValue: .max)
}

public enum FrontEndError: Error, Equatable, Sendable {
  case system(Errno)
  /// The back-end closed the connection.
  case closed
  /// Nothing came for a minute.
  case timeout
  /// The reply does not fit the request: number, flags and size as received.
  case badReply(request: UInt32, flags: UInt32, size: UInt32)
  /// REPLY_ACK said no.
  case refused(FrontEndRequest, code: UInt64)
}

/// A received message.
public struct FrontEndMessage: Equatable, Sendable {
  public var request: UInt32
  public var flags: UInt32
  public var payload: [UInt8]
  /// Owned by the receiver of the message.
  public var descriptors: [CInt]

  public func integer<Value: FixedWidthInteger>(at offset: Int, as: Value.Type) -> Value {
    payload[offset..<offset + Value.bitWidth / 8].reversed().reduce(0) { $0 << 8 | Value($1) }
  }
}

/// A connected Unix socket that speaks in messages.
public struct FrontEndSocket: ~Copyable, Sendable {
  public static let version: UInt32 = 1
  public static let replyFlag: UInt32 = 1 << 2
  public static let needReplyFlag: UInt32 = 1 << 3

  private let socket: OwnedDescriptor

  public init(adopting socket: consuming OwnedDescriptor) throws(FrontEndError) {
    self.socket = socket
    // A back-end that never answers fails a test instead of hanging it.
    var limit = timeval(tv_sec: 60, tv_usec: 0)
    let raw = self.socket.raw
    let code = unsafe setsockopt(
      raw, SOL_SOCKET, SO_RCVTIMEO, &limit, socklen_t(MemoryLayout<timeval>.size))
    guard code == 0 else { throw .system(.current) }
  }

  public var raw: CInt { socket.raw }

  /// Two connected ends, both owned by the caller.
  public static func pair() throws(Errno) -> (CInt, CInt) {
    var ends: [CInt] = [-1, -1]
    try checkedCall {
      unsafe socketpair(
        AF_UNIX, CInt(SOCK_STREAM.rawValue) | CInt(SOCK_CLOEXEC.rawValue), 0, &ends)
    }
    return (ends[0], ends[1])
  }

  /// Connects to a listening socket, for at most `seconds` while it does not exist yet.
  public static func connect(
    path: String, seconds: Double = 5
  ) throws(FrontEndError) -> FrontEndSocket {
    let raw = Glibc.socket(
      AF_UNIX, CInt(SOCK_STREAM.rawValue) | CInt(SOCK_CLOEXEC.rawValue), 0)
    guard raw >= 0 else { throw .system(.current) }
    let socket = OwnedDescriptor(adopting: raw)
    var address = sockaddr_un()
    address.sun_family = sa_family_t(AF_UNIX)
    let bytes = Array(path.utf8)
    guard bytes.count < MemoryLayout.size(ofValue: address.sun_path) else {
      throw .system(Errno(ENAMETOOLONG))
    }
    unsafe withUnsafeMutableBytes(of: &address.sun_path) { unsafe $0.copyBytes(from: bytes) }
    for _ in 0...Int(seconds * 100) {
      let code = unsafe withUnsafePointer(to: &address) {
        unsafe $0.withMemoryRebound(to: sockaddr.self, capacity: 1) {
          unsafe Glibc.connect(raw, $0, socklen_t(MemoryLayout<sockaddr_un>.size))
        }
      }
      if code == 0 { return try FrontEndSocket(adopting: socket) }
      guard errno == ENOENT || errno == ECONNREFUSED else { throw .system(.current) }
      usleep(10_000)
    }
    throw .timeout
  }

  /// Sends one message; `declaredSize` may lie.
  public func send(
    _ request: UInt32, _ payload: [UInt8] = [], descriptors: [CInt] = [],
    flags: UInt32 = FrontEndSocket.version, declaredSize: UInt32? = nil
  ) throws(FrontEndError) {
    try send(
      bytes: littleEndian(request) + littleEndian(flags)
        + littleEndian(declaredSize ?? UInt32(payload.count)) + payload,
      descriptors: descriptors)
  }

  /// Sends bytes as they are.
  public func send(bytes: [UInt8], descriptors: [CInt] = []) throws(FrontEndError) {
    var sent = 0
    while sent < bytes.count {
      let result = unsafe bytes[sent...].withUnsafeBytes { part in
        unsafe clinux_send_fds(
          socket.raw, part.baseAddress, part.count, descriptors,
          sent == 0 ? CInt(descriptors.count) : 0, 0)
      }
      guard result > 0 else {
        throw result == -Int(EPIPE) || result == -Int(ECONNRESET)
          ? .closed : .system(Errno(CInt(-result)))
      }
      sent += result
    }
  }

  public func receive() throws(FrontEndError) -> FrontEndMessage {
    var descriptors: [CInt] = []
    let header = try receive(12, &descriptors)
    var message = FrontEndMessage(request: 0, flags: 0, payload: header, descriptors: [])
    message.request = message.integer(at: 0, as: UInt32.self)
    message.flags = message.integer(at: 4, as: UInt32.self)
    let size = message.integer(at: 8, as: UInt32.self)
    guard size <= 4096 else {
      throw .badReply(request: message.request, flags: message.flags, size: size)
    }
    message.payload = try receive(Int(size), &descriptors)
    message.descriptors = descriptors
    return message
  }

  private func receive(
    _ count: Int, _ descriptors: inout [CInt]
  ) throws(FrontEndError) -> [UInt8] {
    var bytes: [UInt8] = []
    while bytes.count < count {
      var chunk = [UInt8](repeating: 0, count: count - bytes.count)
      var fds = [CInt](repeating: -1, count: Int(CLINUX_MAX_FDS))
      var fdCount: CInt = 0
      let result = unsafe clinux_recv_fds(socket.raw, &chunk, chunk.count, &fds, &fdCount, 0)
      descriptors += fds.prefix(Int(fdCount))
      switch result {
      case 0, -Int(ECONNRESET): throw .closed
      case -Int(EAGAIN): throw .timeout
      case ..<0: throw .system(Errno(CInt(-result)))
      default: bytes += chunk.prefix(result)
      }
    }
    return bytes
  }
}
