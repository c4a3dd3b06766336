// The channel for requests of the back-end to the front-end (vhost-user specification, "Back-end
// communication" and "Back-end message types"): a socket that the front-end sends with
// SET_BACKEND_REQ_FD.
//
// No request here asks for a reply, so none comes and nothing waits for the peer.  A front-end
// takes a closed channel for the end of the back-end, so it is held as long as the session.
//
// Hostile: the front-end, which may not read the channel.  What does not fit is not sent.
import GuestMemory
import Linux

/// What a back-end may ask of a front-end.
enum BackEndRequest: Equatable, Sendable {
  case iotlb(IotlbMessage)
  /// The configuration space is another one now.
  case configurationChange
  /// INBAND_NOTIFICATIONS: a ring's call, and its error.
  case ringCall(ring: Int)
  case ringError(ring: Int)

  var bytes: [UInt8] {
    var payload: [UInt8] = []
    let number: UInt32
    switch self {
    case .iotlb(let message):
      number = 1
      payload.append(number: message.iova)
      payload.append(number: message.size)
      payload.append(number: message.frontEnd.value)
      payload += [message.permission, message.type, 0, 0, 0, 0, 0, 0]
    case .configurationChange: number = 2
    case .ringCall(let ring):
      number = 4
      payload.append(number: UInt32(ring))
      payload.append(number: UInt32(0))
    case .ringError(let ring):
      number = 5
      payload.append(number: UInt32(ring))
      payload.append(number: UInt32(0))
    }
    let header = MessageHeader(request: number, size: UInt32(payload.count))
    return header.bytes + payload
  }
}

struct BackEndChannel: ~Copyable {
  private let socket: UnixSocket
  /// A request went only in part: whatever followed would be taken for the rest of it.
  private var isBroken = false

  init(adopting socket: consuming OwnedDescriptor) { self.socket = UnixSocket(adopting: socket) }

  /// False if the front-end does not read, or has gone.
  mutating func send(_ request: BackEndRequest) -> Bool {
    if isBroken { return false }
    let bytes = request.bytes
    let result = socket.send(bytes)
    if case .done(let count) = result, count < bytes.count { isBroken = true }
    return result == .done(bytes.count)
  }
}
