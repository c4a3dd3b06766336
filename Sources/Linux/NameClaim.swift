// A name that at most one process of a network namespace holds: a listening Unix socket with an
// abstract address.  The kernel takes the name back when its holder ends, however it ends, and
// tells others who it is; a lock file does neither.  unix(7).
import CLinux
import Glibc

/// The hold on a name, given back when its owner goes.
public struct NameClaim: ~Copyable, Sendable {
  private let socket: OwnedDescriptor

  /// Why a name cannot be had.
  public enum Refusal: Error, Equatable, Sendable {
    /// The process that holds it; nil if that is in a process namespace that is not seen from here.
    case held(by: Int?)
    case failed(Errno)
  }

  /// - Parameter name: at most 107 bytes.
  public init(_ name: String) throws(Refusal) {
    let socket = try NameClaim.newSocket()
    try NameClaim.bind(socket.raw, to: name)
    guard listen(socket.raw, 128) == 0 else { throw .failed(.current) }
    self.socket = socket
  }

  private static func bind(_ raw: CInt, to name: String) throws(Refusal) {
    // The holder may end between our bind and our question, and the name be free after all.
    for _ in 0..<8 {
      if unsafe NameClaim.withAddress(name, { unsafe Glibc.bind(raw, $0, $1) }) == 0 {
        return
      }
      guard errno == EADDRINUSE else { throw .failed(.current) }
      let question = try NameClaim.newSocket()
      if unsafe NameClaim.withAddress(name, { unsafe connect(question.raw, $0, $1) }) == 0 {
        let holder = clinux_peer_pid(question.raw)
        throw .held(by: holder > 0 ? Int(holder) : nil)
      }
      guard errno == ECONNREFUSED else { throw .held(by: nil) }
    }
    throw .held(by: nil)
  }

  /// For an epoll set: readable while somebody asks who holds the name.
  public var raw: CInt { socket.raw }

  /// Hangs up on those who asked, who may be anybody; the kernel has answered them already.
  public func dismissCallers() {
    for _ in 0..<64 {
      let caller = accept4(socket.raw, nil, nil, CInt(SOCK_CLOEXEC.rawValue))
      guard caller >= 0 else {
        // They stay in the queue then, and would be reported again at once.
        if errno == EMFILE || errno == ENFILE { usleep(100_000) }
        return
      }
      clinux_hang_up(caller)
    }
  }

  private static func newSocket() throws(Refusal) -> OwnedDescriptor {
    let type = SOCK_STREAM.rawValue | SOCK_CLOEXEC.rawValue | SOCK_NONBLOCK.rawValue
    let raw = Glibc.socket(AF_UNIX, CInt(type), 0)
    guard raw >= 0 else { throw .failed(.current) }
    return OwnedDescriptor(adopting: raw)
  }

  /// An abstract address: a zero byte, then the name, without an end mark.
  private static func withAddress(
    _ name: String, _ body: (UnsafePointer<sockaddr>, socklen_t) -> CInt
  ) -> CInt {
    var address = sockaddr_un()
    address.sun_family = sa_family_t(AF_UNIX)
    var length = MemoryLayout<sa_family_t>.size + 1
    unsafe withUnsafeMutableBytes(of: &address.sun_path) { bytes in
      for (i, byte) in name.utf8.prefix(bytes.count - 1).enumerated() {
        unsafe bytes[i + 1] = byte
        length += 1
      }
    }
    return unsafe withUnsafeBytes(of: &address) { bytes in
      unsafe body(bytes.baseAddress!.assumingMemoryBound(to: sockaddr.self), socklen_t(length))
    }
  }
}
