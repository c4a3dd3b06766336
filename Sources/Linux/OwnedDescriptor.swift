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
  /// Calls on it answer that they would block, from now on; so do those of others who share it.
  public func makeNonBlocking() throws(Errno) {
    let flags = try checkedCall { fcntl(raw, F_GETFL) }
    try checkedCall { fcntl(raw, F_SETFL, flags | O_NONBLOCK) }
  }

  /// Writes bytes, or some of them.
  public func write(_ bytes: [UInt8]) -> CallResult {
    systemCall { unsafe Glibc.write(raw, bytes, bytes.count) }
  }

  /// Reads at most as many bytes as `buffer` has.
  public func read(into buffer: inout [UInt8]) -> CallResult {
    let count = buffer.count
    return systemCall { unsafe Glibc.read(raw, &buffer, count) }
  }
}

/// An eventfd, or any descriptor that a peer gave us to be written to as one (kick, call, err),
/// shared by the control plane and a worker and closed after both.
public final class EventDescriptor: Sendable {
  private let owned: OwnedDescriptor

  public init(adopting descriptor: consuming OwnedDescriptor) { owned = descriptor }

  /// A new eventfd of ours, non-blocking.
  public init() throws(Errno) {
    owned = OwnedDescriptor(
      adopting: try checkedCall { eventfd(0, CInt(EFD_CLOEXEC | EFD_NONBLOCK)) })
  }

  public var raw: CInt { owned.raw }

  /// Adds one.  A peer's full or closed eventfd is the peer's loss: nothing is reported.
  public func signal() {
    var one: UInt64 = 1
    _ = unsafe write(owned.raw, &one, 8)
  }

  /// Resets the counter; returns whether it was set.  Only for non-blocking descriptors.
  @discardableResult
  public func drain() -> Bool {
    var value: UInt64 = 0
    return unsafe read(owned.raw, &value, 8) == 8
  }
}
