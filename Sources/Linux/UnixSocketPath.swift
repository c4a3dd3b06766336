// Unix sockets at a path: to listen at one, to connect to one.
//
// A daemon that is killed leaves its socket file behind, and bind(2) refuses a path that exists.
// Whether the file is stale is asked of the kernel: a connection that is refused has no listener.
// A live socket is not taken over, nor one that is about to be: those who start in one directory do it one
// after the other (DirectoryLock.swift says how far).  What is not a socket is never removed, and at
// the end only the file that was made here goes: a successor may have put its own at the same path.  A
// listener that somebody else has made keeps its file.
import CLinux
import Glibc

/// A listening socket at a path.  The file goes with it, if it was made here and is still the same file.
public struct UnixSocketListener: ~Copyable, Sendable {
  /// Nil: not ours to remove.  It goes first: while the socket listens, nobody puts another one there.
  private let file: SocketFile?
  private let descriptor: OwnedDescriptor
  public let path: String

  /// Listens at `path`, in place of a socket that nobody listens to any more.
  public init(path: String, access: SocketAccess = SocketAccess()) throws(UnixSocketError) {
    let socket = try unixSocket(for: path)
    let lock = DirectoryLock(besides: path)
    try UnixSocketListener.removeStaleSocket(path)
    let raw = socket.raw
    let mode = access == SocketAccess() ? nil : access.mode ?? 0o660
    if let mode {
      // Nobody but the owner, until group and mode are what they shall be.
      try call("fchmod", path) { fchmod(raw, mode_t(mode & 0o600)) }
    }
    try call("bind", path) {
      unsafe withUnixAddress(path) { unsafe Glibc.bind(raw, $0, $1) }
    }
    let bound = try SocketFile.open(boundTo: raw, at: path)
    let file = SocketFile(bound, at: path)
    if let mode {
      try SocketFile.setAccess(of: bound, at: path, group: access.group, mode: mode)
    }
    // A front-end that comes before its predecessor has left waits in the queue.
    try call("listen", path) { Glibc.listen(raw, 8) }
    // Without a lock another starter may have taken it for a dead one's.
    guard file.isInPlace else { throw .replaced(path) }
    lock.end()
    self.file = consume file
    descriptor = socket
    self.path = path
  }

  /// Takes over a socket that listens at `path` already.
  /// - Throws: if it is another kind of descriptor, or listens elsewhere.
  public init(
    adopting descriptor: consuming OwnedDescriptor, path: String
  ) throws(UnixSocketError) {
    let raw = descriptor.raw
    guard socketOption(SO_DOMAIN, of: raw) == AF_UNIX,
      socketOption(SO_TYPE, of: raw) == CInt(SOCK_STREAM.rawValue)
    else { throw .notListening(descriptor: raw, why: "it is not a Unix stream socket") }
    guard socketOption(SO_ACCEPTCONN, of: raw) == 1 else {
      throw .notListening(descriptor: raw, why: "it does not listen")
    }
    let found = UnixSocketListener.path(of: raw)
    guard found == path else {
      let place = found ?? "no path"
      throw .notListening(descriptor: raw, why: "its place is \(place), and not \(path)")
    }
    do throws(Errno) { try descriptor.makeNonBlocking() } catch {
      throw .failed(call: "fcntl", path: path, error)
    }
    self.descriptor = descriptor
    self.path = path
    file = nil
  }

  private static func path(of socket: CInt) -> String? {
    var address = sockaddr_un()
    var length = socklen_t(MemoryLayout<sockaddr_un>.size)
    let result = unsafe withUnsafeMutableBytes(of: &address) { bytes in
      unsafe getsockname(
        socket, bytes.baseAddress!.assumingMemoryBound(to: sockaddr.self), &length)
    }
    guard result == 0 else { return nil }
    let bytes = unsafe withUnsafeBytes(of: &address.sun_path) { bytes in
      unsafe bytes.prefix { $0 != 0 }.map { $0 }
    }
    return bytes.isEmpty ? nil : String(decoding: bytes, as: UTF8.self)
  }

  /// For an epoll set: readable while somebody waits to be accepted.
  public var raw: CInt { descriptor.raw }

  /// The next connection; nil if nobody waits (any more).
  /// - Throws: `.stillClosing` while too much of what earlier peers sent waits to be closed, since a
  ///   connection that is hung up on may add to that.
  public func accept() throws(UnixSocketError) -> UnixSocket? {
    let raw = descriptor.raw
    guard clinux_foreign_waiting() <= CInt(CLINUX_MOST_WAITING) else {
      throw .stillClosing(path)
    }
    switch systemCall({
      Int(accept4(raw, nil, nil, CInt(SOCK_CLOEXEC.rawValue | SOCK_NONBLOCK.rawValue)))
    }) {
    case .done(let number): return UnixSocket(adopting: OwnedDescriptor(adopting: CInt(number)))
    case .wouldBlock, .failed(Errno(ECONNABORTED)): return nil
    case .failed(let errno): throw .failed(call: "accept", path: path, errno)
    }
  }

  /// The directory that `path` is in.
  public static func directory(of path: String) -> String {
    let parts = path.split(separator: "/", omittingEmptySubsequences: false).dropLast()
    let parent = parts.joined(separator: "/")
    return parts.isEmpty ? "." : parent.isEmpty ? "/" : parent
  }

  private static func removeStaleSocket(_ path: String) throws(UnixSocketError) {
    var status = stat()
    guard unsafe lstat(path, &status) == 0 else { return }
    guard status.st_mode & S_IFMT == S_IFSOCK else { throw .notASocket(path) }
    do throws(UnixSocketError) {
      let live = try UnixSocket(connectingTo: path)
      throw .inUse(path, owner: live.peerProcess)
    } catch .failed(call: _, path: _, Errno(ECONNREFUSED)) {
      // Nobody listens: what a dead daemon left.
    } catch .failed(call: _, path: _, Errno(ENOENT)) {
      return
    } catch .failed(call: _, path: _, Errno(EAGAIN)) {
      // The queue of a listener that accepts nobody at the moment is full.
      throw .inUse(path, owner: nil)
    }
    guard unsafe unlink(path) == 0 || errno == ENOENT else {
      throw .failed(call: "unlink", path: path, Errno.current)
    }
  }
}

extension UnixSocket {
  /// Throws if an address cannot hold `path`.
  public static func check(path: String) throws(UnixSocketError) {
    let limit = MemoryLayout.size(ofValue: sockaddr_un().sun_path) - 1
    guard path.utf8.count <= limit else { throw .pathTooLong(path, limit: limit) }
  }

  /// Connects to a listener, at once or not at all: `EAGAIN` if its queue is full.
  public init(connectingTo path: String) throws(UnixSocketError) {
    let socket = try unixSocket(for: path)
    let raw = socket.raw
    try call("connect to", path) {
      unsafe withUnixAddress(path) { unsafe Glibc.connect(raw, $0, $1) }
    }
    self.init(adopting: socket)
  }
}

/// A new stream socket for a path that an address can hold.
private func unixSocket(for path: String) throws(UnixSocketError) -> OwnedDescriptor {
  try UnixSocket.check(path: path)
  let type = SOCK_STREAM.rawValue | SOCK_CLOEXEC.rawValue | SOCK_NONBLOCK.rawValue
  let raw = socket(AF_UNIX, CInt(type), 0)
  guard raw >= 0 else { throw .failed(call: "socket for", path: path, Errno.current) }
  return OwnedDescriptor(adopting: raw)
}

private func call(
  _ name: String, _ path: String, _ body: () -> CInt
) throws(UnixSocketError) {
  do throws(Errno) { try checkedCall(body) } catch {
    throw .failed(call: name, path: path, error)
  }
}

/// Calls `body` with the address of `path`, which `unixSocket(for:)` found short enough.
private func withUnixAddress(
  _ path: String, _ body: (UnsafePointer<sockaddr>, socklen_t) -> CInt
) -> CInt {
  var address = sockaddr_un()
  address.sun_family = sa_family_t(AF_UNIX)
  unsafe withUnsafeMutableBytes(of: &address.sun_path) { bytes in
    for (i, byte) in path.utf8.prefix(bytes.count - 1).enumerated() { unsafe bytes[i] = byte }
  }
  return unsafe withUnsafeBytes(of: &address) { bytes in
    unsafe body(
      bytes.baseAddress!.assumingMemoryBound(to: sockaddr.self),
      socklen_t(MemoryLayout<sockaddr_un>.size))
  }
}
