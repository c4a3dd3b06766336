// The stream of messages: bytes of the socket become whole messages, as they come.
//
// A front-end may stop anywhere, also inside a header, so what has arrived is kept and the caller
// is told to wait.  Header and payload are received apart and never more than the message has, so
// that descriptors stay with their message ("they come with its first byte").  Bounded: one
// message of at most `MessageHeader.maximumPayload` bytes and eight descriptors is held, and for how
// long is known.
import Glibc
import Linux

/// A message as it was received, not yet understood.
struct RawMessage: ~Copyable {
  let header: MessageHeader
  let payload: [UInt8]
  var descriptors: ReceivedDescriptors
}

struct Connection: ~Copyable {
  private let socket: UnixSocket
  private var buffer = [UInt8](
    repeating: 0, count: MessageHeader.byteCount + MessageHeader.maximumPayload)
  private var received = 0
  private var header: MessageHeader?
  private var descriptors = ReceivedDescriptors()
  /// Since when a message is there in part, by `MonotonicClock.milliseconds`; nil: none is.
  private(set) var partSince: UInt64?

  init(_ socket: consuming UnixSocket) { self.socket = socket }

  var raw: Int32 { socket.raw }
  var peerProcess: Int? { socket.peerProcess }

  enum Step: ~Copyable {
    case message(RawMessage)
    case waiting
    /// The front-end left between two messages.
    case closed
  }

  /// The next message, if all of it is there.
  mutating func next() throws(VhostUserError) -> Step {
    while true {
      let expected = MessageHeader.byteCount + Int(header?.size ?? 0)
      if received < expected {
        switch try receive(upTo: expected) {
        case .bytes(let count):
          received += count
          if partSince == nil { partSince = MonotonicClock.milliseconds }
        case .wouldBlock: return .waiting
        case .endOfStream:
          if received == 0 { return .closed }
          throw .endedInsideMessage(received: received, expected: expected)
        }
      } else if let header {
        return .message(takeMessage(header))
      } else {
        header = try MessageHeader(buffer[..<MessageHeader.byteCount])
      }
    }
  }

  /// - Throws: if a message has been there in part for so long.
  func checkProgress(within milliseconds: UInt64) throws(VhostUserError) {
    guard let partSince, MonotonicClock.milliseconds &- partSince >= milliseconds else { return }
    throw .messageTooSlow(
      received: received, expected: MessageHeader.byteCount + Int(header?.size ?? 0),
      milliseconds: milliseconds)
  }

  /// Sends a reply, whole or not at all: replies are small and a front-end waits for each, so a
  /// socket that is full has a peer that does not read.
  func send(
    _ reply: [UInt8], lending descriptor: CInt? = nil, request: String
  ) throws(VhostUserError) {
    switch socket.send(reply, lending: descriptor) {
    case .done(reply.count): return
    case .failed(let errno): throw .socket(errno)
    case .done, .wouldBlock: throw .repliesNotRead(request: request)
    }
  }

  private mutating func receive(upTo end: Int) throws(VhostUserError) -> UnixSocket.Received {
    do throws(Errno) {
      let result = try socket.receive(
        into: &buffer, at: received..<end, descriptors: &descriptors)
      guard descriptors.count <= ReceivedDescriptors.maximumCount else { throw Errno(EMSGSIZE) }
      return result
    } catch Errno(EMSGSIZE) {
      throw .tooManyDescriptors(limit: ReceivedDescriptors.maximumCount)
    } catch {
      throw .socket(error)
    }
  }

  private mutating func takeMessage(_ header: MessageHeader) -> RawMessage {
    let payload = Array(buffer[MessageHeader.byteCount..<received])
    var taken = ReceivedDescriptors()
    swap(&taken, &descriptors)
    received = 0
    self.header = nil
    partSince = nil
    return RawMessage(header: header, payload: payload, descriptors: taken)
  }
}
