// Options of an AF_XDP socket that make it faster and are not needed: limits that are raised, and busy
// polling.  Some take CAP_NET_ADMIN, and stay set when the socket is handed to a process without it.
import Glibc
import Linux

extension MappedSocket {
  /// Both are accelerations: a kernel that refuses them works all the same.
  func raiseTransmitLimits() {
    var budget = XDPSocket.transmitBudget
    // XDP_MAX_TX_SKB_BUDGET
    _ = setOption(9, &budget)
    var bytes = XDPSocket.sendBuffer
    // SO_SNDBUFFORCE
    _ = setOption(32, level: SOL_SOCKET, &bytes)
  }

  /// Asks for busy polling (Linux 5.11), unless it was asked for already by whoever opened the socket.
  func preferBusyPolling() -> BusyPolling {
    let options: [(name: String, number: CInt, value: CInt)] = [
      ("SO_PREFER_BUSY_POLL", 69, 1),
      // Only whether it is 0 matters to a socket that never blocks.
      ("SO_BUSY_POLL", 46, 20),
      ("SO_BUSY_POLL_BUDGET", 70, XDPSocket.busyPollBudget),
    ]
    for option in options {
      var value = option.value
      guard let error = setOption(option.number, level: SOL_SOCKET, &value) else { continue }
      let present = try? self.option(option.number, level: SOL_SOCKET, default: CInt(-1))
      if present == option.value { continue }
      let remedy =
        switch error.code {
        case EPERM: "; give CAP_NET_ADMIN"
        case ENOPROTOOPT: "; it needs Linux 5.11 with CONFIG_NET_RX_BUSY_POLL"
        default: ""
        }
      return .refused("\(option.name): \(error)\(remedy)")
    }
    return .on
  }
}
