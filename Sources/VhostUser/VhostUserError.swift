// Everything that a front-end can do wrong, and what it costs.
//
// Most violations cost the request: it is refused, nothing has changed, and the front-end hears of
// it if it asked for a reply.  The connection ends only where its bytes can no longer be trusted to
// be messages, or where the front-end would wait for ever for an answer that cannot be given.
public import GuestMemory
public import Linux
public import Virtqueue

public enum VhostUserError: Error, Equatable, Sendable, CustomStringConvertible {
  // The stream.
  case wrongVersion(request: UInt32, version: UInt32)
  case replyFromFrontEnd(request: UInt32)
  case payloadTooLarge(request: UInt32, size: UInt32, limit: Int)
  case tooManyDescriptors(limit: Int)
  case endedInsideMessage(received: Int, expected: Int)
  case socket(Errno)
  case repliesNotRead(request: String)
  case messageTooSlow(received: Int, expected: Int, milliseconds: UInt64)
  case memoryLost
  case eventBlocked
  case pagesMissing
  case cannotAnswer(request: String, why: String)
  // A request.
  case unknownRequest(UInt32)
  case wrongSize(request: String, size: Int, expected: String)
  case wrongDescriptorCount(request: String, count: Int, expected: String)
  case wrongDescriptor(request: String, WrongDescriptorKind)
  case ownEnd(request: String)
  case channelNotWatched(Errno)
  case featureMissing(request: String, feature: String)
  case noSuchRing(request: String, index: UInt32, ringCount: Int)
  case wrongValue(request: String, value: UInt64, allowed: String)
  case memory(request: String, GuestMemoryError)
  case inflight(request: String, InflightDefect)
  case inbandAlone
  case mtuTooLarge(mtu: UInt64, largest: Int)
  case configuration(request: String, offset: UInt32, size: Int)
  case translation(TranslationError)
  case log(request: String, DirtyLogError)
  case logMissing
  case logBehindIOMMU
  case postcopy(request: String, Errno)
  case ringsRun(request: String)
  case deviceState(request: String, DeviceStateError)

  /// Whether the connection is over.
  public var endsConnection: Bool {
    switch self {
    case .wrongVersion, .replyFromFrontEnd, .payloadTooLarge, .tooManyDescriptors,
      .endedInsideMessage, .inbandAlone, .socket, .repliesNotRead, .cannotAnswer,
      .messageTooSlow, .memoryLost, .eventBlocked, .pagesMissing:
      true
    default: false
    }
  }

  public var description: String {
    switch self {
    case .wrongVersion(let request, let version):
      "request \(request): protocol version \(version), only 1 is known"
    case .replyFromFrontEnd(let request):
      "request \(request) has the reply flag, which only a back-end sets"
    case .payloadTooLarge(let request, let size, let limit):
      "request \(request): payload of \(size) bytes, at most \(limit) are possible"
    case .tooManyDescriptors(let limit):
      "a message came with more than \(limit) descriptors, or with more than this process may "
        + "have open (ulimit -n)"
    case .endedInsideMessage(let received, let expected):
      "the front-end left inside a message: \(received) of \(expected) bytes"
    case .socket(let errno): "socket: \(errno)"
    case .repliesNotRead(let request):
      "\(request): the socket is full: the front-end does not read its replies"
    case .messageTooSlow(let received, let expected, let milliseconds):
      "\(received) of the \(expected) bytes of a message came within \(milliseconds) ms, and no more"
    case .memoryLost:
      "memory that it shares is gone: its file was cut, or the host has no page left for it (/dev/shm "
        + "full, huge pages used up); start the guest anew with memory that stays: "
        + "memory-backend-memfd, whose length QEMU seals"
    case .eventBlocked:
      "a call or error descriptor is full and made to block, which would hold the data path up"
    case .pagesMissing:
      "a page that it is to serve by postcopy has not come within \(Postcopy.patience / 1000) s of a "
        + "request of its own"
    case .cannotAnswer(let request, let why):
      "\(why); the front-end waits for an answer that \(request) does not have"
    case .unknownRequest(let code): "unknown request \(code)"
    case .wrongSize(let request, let size, let expected):
      "\(request): payload of \(size) bytes instead of \(expected)"
    case .wrongDescriptorCount(let request, let count, let expected):
      "\(request): \(count) descriptors instead of \(expected)"
    case .wrongDescriptor(let request, let error): "\(request): \(error)"
    case .ownEnd(let request):
      "\(request): the socket is the front-end's own end of this connection, which would never end"
    case .channelNotWatched(let errno):
      "SET_BACKEND_REQ_FD: the channel cannot be watched: \(errno)"
    case .featureMissing(let request, let feature):
      "\(request) needs \(feature), which was not negotiated"
    case .noSuchRing(let request, let index, let ringCount):
      "\(request): ring \(index), but there are \(ringCount) rings"
        + "; ask for at most \(ringCount / 2) queue pairs (queues=)"
    case .wrongValue(let request, let value, let allowed):
      "\(request): value \(value) is not \(allowed)"
    case .memory(let request, let error): "\(request): \(error)"
    case .inbandAlone:
      "SET_PROTOCOL_FEATURES: INBAND_NOTIFICATIONS without BACKEND_REQ and REPLY_ACK, which the "
        + "specification says are to be set with it"
    case .inflight(let request, let error): "\(request): \(error)"
    case .translation(let error): "IOTLB_MSG: \(error)"
    case .log(let request, let error): "\(request): \(error)"
    case .logMissing:
      "SET_FEATURES with LOG_ALL: the log that SET_LOG_BASE asked for was refused; the guest cannot "
        + "migrate without one"
    case .logBehindIOMMU:
      "SET_LOG_BASE: a guest behind a vIOMMU (ACCESS_PLATFORM) cannot migrate; use iommu_platform=off"
    case .postcopy(let request, let errno): "\(request): userfaultfd: \(errno)"
    case .ringsRun(let request): "\(request): the rings must be stopped before"
    case .deviceState(let request, let error): "\(request): \(error)"
    case .mtuTooLarge(let mtu, let largest):
      "NET_SET_MTU: the host port carries an MTU of \(largest), not \(mtu); start the guest with "
        + "host_mtu=\(largest) or less, or raise the MTU of the interface"
    case .configuration(let request, let offset, let size):
      "\(request): \(size) bytes at \(offset) are not in configuration space, or not to be written "
        + "by a driver"
    }
  }
}
