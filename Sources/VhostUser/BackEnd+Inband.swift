// INBAND_NOTIFICATIONS in a session; InbandNotifications.swift has the rules.
import Linux

extension BackEnd {
  /// The front-end set protocol features, all that it wants.
  func switchInbandNotifications() throws(VhostUserError) {
    let wanted = protocolFeatures.contains(.inbandNotifications)
    guard wanted != (inband != nil) else { return }
    if let rings = inband?.rings {
      for ring in rings {
        events?.remove(ring.call.raw)
        events?.remove(ring.error.raw)
      }
      inband = nil
      return
    }
    do throws(Errno) {
      let notifications = try InbandNotifications(ringCount: rings.count)
      for ring in notifications.rings {
        try events?.add(ring.call.raw, .readable, tag: 0)
        try events?.add(ring.error.raw, .readable, tag: 0)
      }
      inband = notifications
    } catch { throw .socket(error) }
  }

  /// VRING_KICK: starts the ring, if it was not started by SET_VRING_KICK.
  func kick(_ ring: Int, _ number: UInt32) throws(VhostUserError) -> Reply {
    guard number == 0 else {
      throw .wrongValue(
        request: "VRING_KICK", value: UInt64(number), allowed: "0, which is reserved")
    }
    if rings[ring].kick == nil, let own = inband?.rings[ring].kick {
      rings[ring].kick = .event(own)
      startIfComplete(ring)
    }
    if case .event(let event)? = rings[ring].kick { event.signal() }
    return .acknowledge
  }

  /// Tells the front-end what the workers have signalled.
  func tellNotifications() {
    guard inband != nil else { return }
    inband!.collect()
    if channel != nil { inband!.tell(&channel!) }
  }
}
