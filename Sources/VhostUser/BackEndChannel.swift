// The channel for requests of the back-end to the front-end (vhost-user specification, "Back-end
// communication"): a socket that the front-end sends with SET_BACKEND_REQ_FD.
//
// A net device has nothing to ask yet: IOTLB misses need a vIOMMU, configuration changes need
// PROTOCOL_F_CONFIG.  So the channel is held, since the front-end takes a closed one for the end
// of the back-end, and closed with the session.
import Linux

struct BackEndChannel: ~Copyable {
  private let socket: OwnedDescriptor

  init(adopting socket: consuming OwnedDescriptor) { self.socket = socket }
}
