// Where front-ends come from, by the command line and by what the process was handed: with --socket-path
// a socket that a service manager made at that path takes the place of one of our own.  It outlives the
// daemon, so that a front-end that comes while there is none waits instead of being refused.
import AFXDP
import Linux
import VhostUser

extension Options {
  /// Takes a socket to listen at out of `handed`, if there is one.
  func endpoint(_ handed: inout HandedDescriptors) throws(StartFailure) -> Listener.Endpoint {
    let isForFrontEnds: (String) -> Bool = { !XDPGrant.names.contains($0) }
    let socket = handed.take(where: isForFrontEnds)
    switch consume socket {
    case nil:
      if let descriptor { return .inherited(descriptor) }
      let path = socketPath ?? ""
      return client ? .connect(path: path) : .listen(path: path, try socketAccess())
    case .some(let socket):
      if let option = endpointOfOurOwn {
        throw StartFailure(
          "a socket to listen at was handed in (LISTEN_FDS), which \(option) does without: leave "
            + "\(option) out, or stop the socket unit")
      }
      guard handed.take(where: isForFrontEnds) == nil else {
        throw StartFailure(
          "several sockets to listen at were handed in (LISTEN_FDS), and one is served: give one "
            + "ListenStream=")
      }
      return .listening(socket.release(), path: socketPath ?? "")
    }
  }

  /// An option that says where front-ends come from, or what a socket is to be like, and that one which
  /// was handed in leaves no room for.
  private var endpointOfOurOwn: String? {
    let options = [
      ("--fd", descriptor != nil), ("--client", client), ("--socket-mode", socketMode != nil),
      ("--socket-group", socketGroup != nil),
    ]
    return options.first(where: \.1)?.0
  }
}

extension Listener.Endpoint {
  var text: String {
    switch self {
    case .listen(let path, _), .listening(_, let path): "listening on \(path)"
    case .connect(let path): "connecting to \(path)"
    case .inherited(let number): "connected by descriptor \(number)"
    }
  }
}
