// A connected Unix stream socket that carries bytes and descriptors (SCM_RIGHTS, unix(7)).
//
// Nothing here ever blocks, whatever the flags of the socket say: a peer that stops half-way
// through a message, or never reads what it is sent, must not stop the thread that serves it.
// Hostile: the peer.  Every descriptor that it sends has an owner from the moment it arrives, so
// one that nobody takes is closed.
//
// The tempting wrong form: an array of numbers that the caller closes.  Each error path then
// leaks what it forgot, and the peer decides how often that path is taken.
import CLinux
import Glibc

/// What a descriptor that a peer sends has to be.  Finding out never waits, and neither does what is
/// done with one that is.
public enum DescriptorKind: Sendable {
  case event
  /// Whose pages come from the kernel alone.
  case sharedMemory
  case streamSocket
  case pipe

  fileprivate func fits(_ raw: CInt) -> Bool {
    switch self {
    case .event: clinux_is_event(raw) != 0
    case .sharedMemory: clinux_is_shared_memory(raw) != 0
    case .streamSocket: clinux_is_unix_stream(raw) != 0
    case .pipe: clinux_is_pipe(raw) != 0
    }
  }
}

/// A descriptor is of another kind than it has to be.
public struct WrongDescriptorKind: Error, Equatable, Sendable, CustomStringConvertible {
  public let expected: DescriptorKind

  public var description: String {
    switch expected {
    case .event: "a descriptor that is no eventfd"
    case .sharedMemory:
      "a file that is no shared memory (memfd, tmpfs or hugetlbfs): its pages may never come; use "
        + "memory-backend-memfd, or memory-backend-file in /dev/shm, with share=on"
    case .streamSocket: "a descriptor that is no Unix stream socket"
    case .pipe: "a descriptor that is no pipe"
    }
  }
}

/// Descriptors that came with a message, in their order; those that nobody takes are closed.
public struct ReceivedDescriptors: ~Copyable, Sendable {
  /// Most descriptors that one message may carry.
  public static let maximumCount = Int(CLINUX_MAX_FDS)

  private var raw: [CInt] = []

  public init() {}

  deinit { for descriptor in raw { clinux_foreign_close(descriptor) } }

  public var count: Int { raw.count }

  public mutating func append(_ descriptor: consuming OwnedDescriptor) {
    raw.append(descriptor.release())
  }

  /// The first descriptor that is left; nil if there is none.
  public mutating func takeFirst() -> OwnedDescriptor? {
    raw.isEmpty ? nil : OwnedDescriptor(adopting: raw.removeFirst())
  }

  /// The first descriptor that is left, if it is of this kind; it stays if it is not.
  public mutating func takeFirst(
    _ kind: DescriptorKind
  ) throws(WrongDescriptorKind) -> OwnedDescriptor? {
    guard let first = raw.first else { return nil }
    guard kind.fits(first) else { throw WrongDescriptorKind(expected: kind) }
    return takeFirst()
  }

  /// The first descriptor that is left, as one to write events to.  It is made non-blocking: a peer's
  /// full eventfd costs nothing then, unless the peer takes that back, which raises its alarm.
  public mutating func takeFirstEvent(
    of peer: PeerAlarm
  ) throws(WrongDescriptorKind) -> EventDescriptor? {
    if let first = raw.first {
      let flags = fcntl(first, F_GETFL)
      if flags >= 0 { _ = fcntl(first, F_SETFL, flags | O_NONBLOCK) }
    }
    guard let descriptor = try takeFirst(.event) else { return nil }
    return EventDescriptor(adopting: descriptor, of: peer)
  }
}

public struct UnixSocket: ~Copyable, Sendable {
  /// For an epoll set; owned by this value.
  public let raw: CInt

  /// Takes over a connected stream socket.
  public init(adopting descriptor: consuming OwnedDescriptor) {
    raw = descriptor.release()
    clinux_receive_in_line(raw)
  }

  deinit { clinux_hang_up(raw) }

  /// Takes over the connected socket that somebody opened for this process (`--fd=N`).
  /// - Throws: if `number` is not an open, connected Unix stream socket.
  public init(inherited number: CInt) throws(UnixSocketError) {
    guard number >= 0, fcntl(number, F_GETFD) >= 0 else {
      throw .unusable(descriptor: number, why: "it is not open")
    }
    guard socketOption(SO_DOMAIN, of: number) == AF_UNIX,
      socketOption(SO_TYPE, of: number) == CInt(SOCK_STREAM.rawValue)
    else { throw .unusable(descriptor: number, why: "it is not a Unix stream socket") }
    guard socketOption(SO_ACCEPTCONN, of: number) == 0, clinux_peer_pid(number) >= 0,
      hasPeer(number)
    else { throw .unusable(descriptor: number, why: "it is not connected") }
    _ = fcntl(number, F_SETFD, FD_CLOEXEC)
    clinux_receive_in_line(number)
    // One of a pair has none: see `isOtherEnd`.
    clinux_name_socket(number)
    raw = number
  }

  /// Whether `descriptor`, which came over the socket `connection`, is the peer's own end of it: whoever
  /// keeps that will never see the peer go.
  public static func isOtherEnd(_ descriptor: CInt, of connection: CInt) -> Bool {
    clinux_is_other_end(descriptor, connection) != 0
  }

  /// Process id of the peer (of the listener, if this side connected); nil if it is not known.
  public var peerProcess: Int? {
    let pid = clinux_peer_pid(raw)
    return pid > 0 ? Int(pid) : nil
  }

  public enum Received: Equatable, Sendable {
    case bytes(Int)
    case wouldBlock
    case endOfStream
  }

  /// Receives bytes into `buffer[range]`, at least one, and the descriptors that come with them.
  /// - Throws: `EMSGSIZE` if more descriptors came than one message may carry, or than this
  ///   process may open; nothing is received then, and will not be: hang up.
  public func receive(
    into buffer: inout [UInt8], at range: Range<Int>, descriptors: inout ReceivedDescriptors
  ) throws(Errno) -> Received {
    precondition(!range.isEmpty && buffer.indices.contains(range.upperBound - 1))
    var numbers = [CInt](repeating: -1, count: ReceivedDescriptors.maximumCount)
    var count: CInt = 0
    let raw = raw
    let result = unsafe buffer.withUnsafeMutableBytes { bytes in
      unsafe clinux_recv_fds(
        raw, bytes.baseAddress! + range.lowerBound, range.count, &numbers, &count,
        CInt(MSG_DONTWAIT))
    }
    for number in numbers.prefix(Int(count)) {
      descriptors.append(OwnedDescriptor(adopting: number))
    }
    switch result {
    case 0: return .endOfStream
    case 1...: return .bytes(result)
    case -Int(EAGAIN): return .wouldBlock
    default: throw Errno(CInt(truncatingIfNeeded: -result))
    }
  }

  /// Sends as much of `bytes` as the socket takes now, and with the first of them a duplicate of
  /// `descriptor`.
  public func send(_ bytes: [UInt8], lending descriptor: CInt? = nil) -> CallResult {
    var lent = descriptor ?? -1
    let result = unsafe bytes.withUnsafeBytes { bytes in
      unsafe clinux_send_fds(
        raw, bytes.baseAddress, bytes.count, &lent, descriptor == nil ? 0 : 1, CInt(MSG_DONTWAIT))
    }
    switch result {
    case 0...: return .done(result)
    case -Int(EAGAIN): return .wouldBlock
    default: return .failed(Errno(CInt(truncatingIfNeeded: -result)))
    }
  }
}

/// Why a socket cannot be had, with what to do about it.
public enum UnixSocketError: Error, Equatable, Sendable, CustomStringConvertible {
  case pathTooLong(String, limit: Int)
  /// Something else is at the path; it is left alone.
  case notASocket(String)
  /// Somebody listens at the path; the process, if the kernel told.
  case inUse(String, owner: Int?)
  /// Somebody else took the path between bind(2) and listen(2).
  case replaced(String)
  case failed(call: String, path: String, Errno)
  /// A descriptor that was handed to this process does not serve.
  case unusable(descriptor: CInt, why: String)
  /// The same, of one to listen at.
  case notListening(descriptor: CInt, why: String)
  /// Nobody is let in until what earlier peers sent has been closed.
  case stillClosing(String)

  public var description: String {
    switch self {
    case .pathTooLong(let path, let limit):
      "socket path \(path) has \(path.utf8.count) bytes, at most \(limit) are possible; use a "
        + "shorter path, for example under /run"
    case .notASocket(let path):
      "\(path) exists and is not a socket; it is left alone: remove it or choose another path"
    case .inUse(let path, let owner):
      "\(path) is in use by "
        + (owner.map { "process \($0)" } ?? "a process that does not answer")
        + "; stop that process or choose another path"
    case .replaced(let path):
      "\(path) was taken by somebody else while the socket was made there; start one process at this "
        + "path, in a directory that nobody else writes to"
    case .failed(let call, let path, let errno):
      "\(call) \(path): \(errno)" + UnixSocketError.remedy(call, errno)
    case .unusable(let descriptor, let why):
      "descriptor \(descriptor) cannot be used: \(why); give a connected Unix stream socket"
    case .notListening(let descriptor, let why):
      "descriptor \(descriptor), which was handed in, cannot be listened at: \(why); give a listening "
        + "Unix stream socket (systemd: ListenStream=PATH)"
    case .stillClosing(let path):
      "accept \(path): more than \(CLINUX_MOST_WAITING) files of earlier front-ends are still being "
        + "closed; a file system in user space that does not answer has to be ended"
    }
  }

  private static func remedy(_ call: String, _ errno: Errno) -> String {
    switch errno.code {
    case ENOENT where call == "chmod": "; /proc has to be mounted"
    case ENOENT: "; create the directory first"
    case EPERM where call == "chown":
      "; this user has to be in the group or have CAP_CHOWN (systemd: SupplementaryGroups=), and a "
        + "system-call filter has to let it call fchownat"
    case EACCES where call == "connect":
      "; this user may not write to the socket, also if it is root, which has given up its privileges by "
        + "then: be the user, or in the group, of the front-end"
    case EACCES, EPERM: "; this user may not write to the directory or the socket"
    case EMFILE, ENFILE: "; raise the limit of open files (`ulimit -n`, systemd: LimitNOFILE=)"
    case EADDRINUSE: "; another process took the path at this moment"
    default: ""
    }
  }
}

func socketOption(_ name: CInt, of socket: CInt) -> CInt? {
  var value: CInt = 0
  var length = socklen_t(MemoryLayout<CInt>.size)
  return unsafe getsockopt(socket, SOL_SOCKET, name, &value, &length) == 0 ? value : nil
}

/// A socket without a peer has credentials too (-1, or those of its pair), so ask for the name.
private func hasPeer(_ socket: CInt) -> Bool {
  var address = sockaddr_un()
  var length = socklen_t(MemoryLayout<sockaddr_un>.size)
  return unsafe withUnsafeMutableBytes(of: &address) { bytes in
    unsafe getpeername(
      socket, bytes.baseAddress!.assumingMemoryBound(to: sockaddr.self), &length) == 0
  }
}
