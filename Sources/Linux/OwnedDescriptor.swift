// File descriptors have one owner, which closes them.
import Glibc
import CLinux

/// A file descriptor that is closed when its owner goes.
public struct OwnedDescriptor: ~Copyable, Sendable {
  public let raw: CInt

  /// Takes over `raw`, which nobody else may close.
  public init(adopting raw: CInt) { self.raw = raw }

  deinit { close(raw) }

  /// Gives the descriptor away, unclosed.
  public consuming func release() -> CInt {
    let raw = self.raw
    discard self
    return raw
  }

  /// A second descriptor of the same open file.
  public func duplicate() throws(Errno) -> OwnedDescriptor {
    OwnedDescriptor(adopting: try checkedCall { fcntl(raw, F_DUPFD_CLOEXEC, 0) })
  }
}

extension OwnedDescriptor {
  /// Calls on it answer that they would block, from now on; so do those of others who share it, and
  /// who may take that back.
  public func makeNonBlocking() throws(Errno) { try Linux.makeNonBlocking(raw) }
}

/// A pipe that a peer sent, closed where that may take as long as the peer likes.
public struct PeerPipe: ~Copyable, Sendable {
  public let raw: CInt

  public init(adopting descriptor: consuming OwnedDescriptor) { raw = descriptor.release() }

  deinit { clinux_foreign_close(raw) }

  /// Calls on it answer that they would block, until the peer, who shares it, takes that back.
  public func makeNonBlocking() throws(Errno) { try Linux.makeNonBlocking(raw) }

  /// Writes bytes, or some of them.  EINTR: the peer made it wait.
  public func write(_ bytes: [UInt8]) -> CallResult {
    CallResult(unsafe clinux_foreign_write(raw, bytes, bytes.count))
  }

  /// Reads at most as many bytes as `buffer` has.  EINTR: as above.
  public func read(into buffer: inout [UInt8]) -> CallResult {
    let count = buffer.count
    return CallResult(unsafe clinux_foreign_read(raw, &buffer, count))
  }
}

private func makeNonBlocking(_ raw: CInt) throws(Errno) {
  let flags = try checkedCall { fcntl(raw, F_GETFL) }
  try checkedCall { fcntl(raw, F_SETFL, flags | O_NONBLOCK) }
}

extension CallResult {
  /// Of a wrapper that answers -errno.
  fileprivate init(_ result: Int) {
    switch result {
    case 0...: self = .done(result)
    case -Int(EAGAIN): self = .wouldBlock
    default: self = .failed(Errno(CInt(truncatingIfNeeded: -result)))
    }
  }
}

/// An eventfd, our own or one that a peer gave us to be written to (kick, call, err), shared by the
/// control plane and a worker and closed after both.
@safe
public final class EventDescriptor: @unchecked Sendable {
  private let owned: OwnedDescriptor
  /// Nil: ours, and non-blocking for good.
  private let alarm: UnsafeMutablePointer<clinux_alarm>?
  /// Keeps `alarm`.
  private let peer: PeerAlarm?

  public init(adopting descriptor: consuming OwnedDescriptor) {
    owned = descriptor
    unsafe alarm = nil
    peer = nil
  }

  /// A peer's, whose alarm is raised if it makes `signal` wait.
  public init(adopting descriptor: consuming OwnedDescriptor, of peer: PeerAlarm) {
    owned = descriptor
    unsafe alarm = peer.raw
    self.peer = peer
  }

  /// A new eventfd of ours, non-blocking.
  public init() throws(Errno) {
    owned = OwnedDescriptor(
      adopting: try checkedCall { eventfd(0, CInt(EFD_CLOEXEC | EFD_NONBLOCK)) })
    unsafe alarm = nil
    peer = nil
  }

  public var raw: CInt { owned.raw }

  /// Adds one.  A peer's full or closed eventfd is the peer's loss: nothing is reported.
  public func signal() {
    if let alarm = unsafe alarm {
      unsafe clinux_foreign_signal(owned.raw, alarm)
      return
    }
    var one: UInt64 = 1
    _ = unsafe write(owned.raw, &one, 8)
  }

  /// Resets the counter; returns whether it was set.  Only for our own.
  @discardableResult
  public func drain() -> Bool {
    var value: UInt64 = 0
    return unsafe read(owned.raw, &value, 8) == 8
  }
}
