// Kicks, calls and errors as messages (vhost-user specification, "In-band notifications").
//
// A worker knows eventfds only, so every ring gets three of ours.  VRING_KICK writes the first;
// what a worker writes to the other two goes out as VRING_CALL and VRING_ERR.  A descriptor that the
// front-end sends with SET_VRING_KICK, CALL or ERR is preferred to messages, and polling, where it
// asks for that, to both, as the specification says.
//
// One request is on its way at a time: it asks for a reply, and the next one is sent when that has
// come.  What happens meanwhile is kept as a mark for each ring, since one call says as much as
// ten.  So a front-end that does not read its channel fills nothing and stops nobody, and finds
// the last state when it reads again.
import Linux

struct InbandNotifications {
  struct Ring {
    let kick: EventDescriptor
    let call: EventDescriptor
    let error: EventDescriptor
  }

  let rings: [Ring]
  /// What was signalled and not told yet, the oldest first; no request twice.
  private var untold: [BackEndRequest] = []
  /// What was told and not replied to.
  private var told: BackEndRequest?

  init(ringCount: Int) throws(Errno) {
    var rings: [Ring] = []
    for _ in 0..<ringCount {
      rings.append(
        Ring(
          kick: try EventDescriptor(), call: try EventDescriptor(), error: try EventDescriptor()))
    }
    self.rings = rings
  }

  /// Takes what the workers signalled.
  mutating func collect() {
    for index in rings.indices {
      if rings[index].call.drain() { mark(.ringCall(ring: index)) }
      if rings[index].error.drain() { mark(.ringError(ring: index)) }
    }
  }

  private mutating func mark(_ request: BackEndRequest) {
    if !untold.contains(request) { untold.append(request) }
  }

  /// Sends the next request, if it is time for one.
  mutating func tell(_ channel: inout BackEndChannel) {
    guard told == nil, let next = untold.first, channel.send(next, wantsReply: true) else { return }
    untold.removeFirst()
    told = next
  }

  /// A reply to VRING_CALL or VRING_ERR came.
  mutating func takeReply() { told = nil }

  /// Nobody replies over the former channel any more: its last request is made again.
  mutating func changeChannel() {
    if let told { mark(told) }
    told = nil
  }
}
