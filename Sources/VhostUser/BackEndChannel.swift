// The channel for requests of the back-end to the front-end (vhost-user specification, "Back-end
// communication" and "Back-end message types"): a socket that the front-end sends with
// SET_BACKEND_REQ_FD.
//
// Nothing waits for the peer: a request goes out or is refused, and replies, which IOTLB misses and
// in-band notifications ask for, are taken when they come.  A front-end takes a closed channel for the end of the
// back-end, so it is held as long as the session, but for one that the front-end has closed itself or
// filled with nonsense: what lies in a socket that is held and not read, such as the front-end's end of
// the connection, would stay open.
//
// Hostile: the front-end, which may not read the channel, or send anything over it.
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

  static let iotlbRequest: UInt32 = 1
  /// IOTLB_MSG, VRING_CALL and VRING_ERR.
  static let withReplies: [UInt32] = [iotlbRequest, 4, 5]

  /// - Parameter wantsReply: REPLY_ACK was negotiated.
  func bytes(wantsReply: Bool) -> [UInt8] {
    var payload: [UInt8] = []
    let number: UInt32
    switch self {
    case .iotlb(let message):
      number = BackEndRequest.iotlbRequest
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
    let header = MessageHeader(
      request: number,
      flags: MessageHeader.version | (wantsReply ? MessageHeader.needReplyFlag : 0),
      size: UInt32(payload.count))
    return header.bytes + payload
  }
}

struct BackEndChannel: ~Copyable {
  /// Nil: it was let go.
  private var socket: UnixSocket?
  /// The end of a request that went only in part; whatever else followed would be taken for it.
  private var unsent: [UInt8] = []
  private var incoming = [UInt8](repeating: 0, count: BackEndChannel.replySize)
  private var received = 0
  private var isClosed = false

  /// A header and a number.
  private static let replySize = MessageHeader.byteCount + 8

  init(adopting socket: consuming OwnedDescriptor) { self.socket = UnixSocket(adopting: socket) }

  /// For an epoll set.
  var raw: Int32? {
    switch socket {
    case .some(let socket): socket.raw
    case nil: nil
    }
  }

  /// After `receive` said that it is closed.
  mutating func letGo() {
    isClosed = true
    socket = nil
  }

  /// False if the front-end does not read now, or has gone.
  mutating func send(_ request: BackEndRequest, wantsReply: Bool = false) -> Bool {
    if isClosed { return false }
    if !unsent.isEmpty {
      guard case .done(let count)? = socket?.send(unsent) else { return false }
      unsent.removeFirst(count)
      if !unsent.isEmpty { return false }
    }
    let bytes = request.bytes(wantsReply: wantsReply)
    switch socket!.send(bytes) {
    case .done(let count):
      unsent = Array(bytes[count...])
      return true
    case .wouldBlock: return false
    case .failed:
      isClosed = true
      return false
    }
  }

  enum Received: Equatable {
    /// To the oldest request that asked for one and has none; zero: done.
    case reply(to: UInt32, UInt64)
    case nothing
    /// The front-end has closed the channel, or sends what is no reply: there is nothing to be had
    /// from it any more.
    case closed
  }

  mutating func receive() -> Received {
    while !isClosed, received < BackEndChannel.replySize {
      var descriptors = ReceivedDescriptors()
      do throws(Errno) {
        switch try socket!.receive(
          into: &incoming, at: received..<BackEndChannel.replySize, descriptors: &descriptors)
        {
        case .bytes(let count): received += count
        case .wouldBlock: return .nothing
        case .endOfStream: isClosed = true
        }
      } catch { isClosed = true }
    }
    if isClosed { return .closed }
    received = 0
    var reader = PayloadReader(incoming)
    let (request, flags, size) = (reader.next32(), reader.next32(), reader.next32())
    guard BackEndRequest.withReplies.contains(request), flags & MessageHeader.replyFlag != 0,
      size == 8
    else {
      isClosed = true
      return .closed
    }
    return .reply(to: request, reader.next64())
  }
}
