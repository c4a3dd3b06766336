// What the back-end answers, as bytes.

/// The answer to one request.
enum Reply: Equatable, Sendable {
  /// The request has no answer of its own: zero, and only if the front-end asked for a reply.
  case acknowledge
  case number(UInt64)
  case vringState(VringState)
  /// A header alone.
  case empty
  /// That many bytes of zeros.
  case zeros(Int)
  /// Any other payload, with a descriptor that the session keeps open until it is sent.
  case bytes([UInt8], lending: CInt? = nil)

  /// What goes with the bytes (SCM_RIGHTS).
  var descriptor: CInt? {
    if case .bytes(_, let descriptor) = self { descriptor } else { nil }
  }

  /// A reply whose header names `request`.
  func bytes(for request: UInt32) -> [UInt8] {
    var payload: [UInt8] = []
    switch self {
    case .acknowledge: payload.append(number: UInt64(0))
    case .number(let number): payload.append(number: number)
    case .vringState(let state):
      payload.append(number: state.index)
      payload.append(number: state.number)
    case .empty: break
    case .zeros(let count): payload = [UInt8](repeating: 0, count: count)
    case .bytes(let bytes, _): payload = bytes
    }
    let header = MessageHeader(
      request: request, flags: MessageHeader.version | MessageHeader.replyFlag,
      size: UInt32(payload.count))
    return header.bytes + payload
  }
}
