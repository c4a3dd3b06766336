// Where front-ends come from: a socket to listen at, which may be somebody else's, one to connect to, or
// one that was inherited (vhost-user specification, "Back-end program conventions": --socket-path and
// --fd).
//
// State for an event loop, which owns the waiting: watch `descriptor`, wait no longer than
// `milliseconds(until:)` says, then call `next`.  A client tries again for ever, since the
// front-end may come up later or again; it waits longer from one failure to the next, up to a
// second, and reports a failure only when it is another one than before.  One session at a time:
// while it lasts nobody asks, and further front-ends wait in the socket's queue.
public import Linux

public final class Listener {
  public enum Endpoint: Equatable, Sendable {
    case listen(path: String, SocketAccess = SocketAccess())
    /// At a socket that listens at `path` already; the descriptor is taken over, the file stays.
    case listening(Int32, path: String)
    case connect(path: String)
    case inherited(Int32)
  }

  public enum Next: ~Copyable {
    case connection(UnixSocket)
    case nothing
    /// An attempt failed for the first time, or in a new way; more follow.
    case failed(UnixSocketError)
    /// The inherited socket has been used: no front-end will come any more.
    case exhausted
  }

  // One of the three.
  private let listener: UnixSocketListener?
  private var client: Client?
  private var inherited: UnixSocket?

  /// - Throws: if it will never work: a path that cannot be used or is in use, a wrong descriptor.
  public init(_ endpoint: Endpoint) throws(UnixSocketError) {
    switch endpoint {
    case .listen(let path, let access):
      let listener = try UnixSocketListener(path: path, access: access)
      descriptor = listener.raw
      self.listener = consume listener
    case .listening(let number, let path):
      let listener = try UnixSocketListener(adopting: OwnedDescriptor(adopting: number), path: path)
      descriptor = listener.raw
      self.listener = consume listener
    case .connect(let path):
      descriptor = nil
      listener = nil
      client = try Client(path: path)
    case .inherited(let number):
      descriptor = nil
      listener = nil
      inherited = try UnixSocket(inherited: number)
    }
  }

  /// To watch for readability while there is no session; nil if there is nothing to watch.
  public let descriptor: Int32?

  /// How long to wait at most before `next` is called, in milliseconds; nil: as long as it takes.
  /// - Parameter now: milliseconds of a clock that only goes forward.
  public func milliseconds(until now: UInt64) -> UInt64? {
    if listener != nil { return nil }
    guard let client else { return 0 }
    return client.nextAttempt > now ? client.nextAttempt - now : 0
  }

  /// The next front-end, if there is one at this time.
  public func next(now: UInt64) -> Next {
    if client != nil { return client!.next(now: now) }
    if let socket = inherited.take() { return .connection(socket) }
    guard listener != nil else { return .exhausted }
    do throws(UnixSocketError) {
      guard let socket = try listener!.accept() else { return .nothing }
      return .connection(socket)
    } catch {
      return .failed(error)
    }
  }
}

/// The connecting side: when to try, and what went wrong last.
struct Client: Sendable {
  static let shortestDelay: UInt64 = 50
  static let longestDelay: UInt64 = 1000

  let path: String
  private(set) var nextAttempt: UInt64 = 0
  private var delay = Client.shortestDelay
  private var lastFailure: UnixSocketError?

  init(path: String) throws(UnixSocketError) {
    try UnixSocket.check(path: path)
    self.path = path
  }

  mutating func next(now: UInt64) -> Listener.Next {
    guard now >= nextAttempt else { return .nothing }
    do throws(UnixSocketError) {
      let socket = try UnixSocket(connectingTo: path)
      // A front-end that hangs up at once is not asked more often than one that is not there.
      nextAttempt = now + Client.longestDelay
      delay = Client.shortestDelay
      lastFailure = nil
      return .connection(socket)
    } catch {
      nextAttempt = now + delay
      delay = min(delay * 2, Client.longestDelay)
      guard error != lastFailure else { return .nothing }
      lastFailure = error
      return .failed(error)
    }
  }
}
