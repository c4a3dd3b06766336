// One way to make a system call: EINTR is repeated here and nowhere else, and would-block is a
// value of its own, since it is the ordinary answer of a non-blocking descriptor.
import Glibc

/// An error number of the kernel, with its name in messages.
public struct Errno: Error, Equatable, Sendable, CustomStringConvertible {
  public let code: CInt

  public init(_ code: CInt) { self.code = code }

  /// The calling thread's `errno`.
  public static var current: Errno { Errno(errno) }

  public var description: String {
    unsafe String(cString: strerror(code)) + " (\(Errno.names[code] ?? "errno \(code)"))"
  }

  private static let names: [CInt: String] = [
    EPERM: "EPERM", ENOENT: "ENOENT", EINTR: "EINTR", EIO: "EIO", ENXIO: "ENXIO",
    EBADF: "EBADF", EAGAIN: "EAGAIN", ENOMEM: "ENOMEM", EACCES: "EACCES", EBUSY: "EBUSY",
    EEXIST: "EEXIST", ENODEV: "ENODEV", EINVAL: "EINVAL", EMFILE: "EMFILE", ENOSPC: "ENOSPC",
    EPIPE: "EPIPE", ENOSYS: "ENOSYS", EMSGSIZE: "EMSGSIZE", EOPNOTSUPP: "EOPNOTSUPP",
    EADDRINUSE: "EADDRINUSE", ENETDOWN: "ENETDOWN", ENOBUFS: "ENOBUFS",
    ECONNREFUSED: "ECONNREFUSED",
    ECONNRESET: "ECONNRESET", ENOTSOCK: "ENOTSOCK", ENAMETOOLONG: "ENAMETOOLONG",
    ENOTCONN: "ENOTCONN", ESRCH: "ESRCH", EPROTO: "EPROTO",
  ]
}

/// What a call on a non-blocking descriptor gave.
public enum CallResult: Equatable, Sendable {
  case done(Int)
  case wouldBlock
  case failed(Errno)
}

/// Makes a system call that answers -1 and `errno`, again while it is interrupted.
@inline(__always)
public func systemCall(_ call: () -> Int) -> CallResult {
  while true {
    let result = call()
    if result >= 0 { return .done(result) }
    switch errno {
    case EINTR: continue
    case EAGAIN: return .wouldBlock
    case let code: return .failed(Errno(code))
    }
  }
}

/// Makes a system call for which would-block is an error like any other.
@discardableResult
@inline(__always)
public func checkedCall(_ call: () -> CInt) throws(Errno) -> CInt {
  while true {
    let result = call()
    if result >= 0 { return result }
    if errno != EINTR { throw Errno.current }
  }
}

/// Waits for events of one descriptor (poll(2)), without end if the time is negative, and as long also
/// if signals come.
/// - Returns: those that are there; 0 if there are none.
package func waitFor(_ events: Int16, of descriptor: CInt, milliseconds: CInt) -> Int16 {
  var poller = pollfd(fd: descriptor, events: events, revents: 0)
  let end = MonotonicClock.milliseconds &+ UInt64(max(0, milliseconds))
  var left = milliseconds
  while true {
    let count = unsafe poll(&poller, 1, left)
    if count >= 0 || errno != EINTR { return count > 0 ? poller.revents : 0 }
    let now = MonotonicClock.milliseconds
    if left > 0 { left = now < end ? CInt(end - now) : 0 }
  }
}
