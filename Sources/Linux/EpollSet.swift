// epoll with stale-event protection: a descriptor number is re-used at once after a close, so an
// event carries the tag it was registered with, never the number.
import CLinux
import Glibc

public struct EpollSet: ~Copyable, Sendable {
  private let descriptor: OwnedDescriptor

  public struct Interest: OptionSet, Sendable {
    public let rawValue: UInt32
    public init(rawValue: UInt32) { self.rawValue = rawValue }
    public static let readable = Interest(rawValue: EPOLLIN.rawValue)
    public static let writable = Interest(rawValue: EPOLLOUT.rawValue)
    /// Report each change once.  An eventfd registered so never has to be read.
    public static let edge = Interest(rawValue: 1 << 31)
    /// Nothing but errors and hang-up.
    public static let none: Interest = []
    public static let hangUp = Interest(rawValue: EPOLLHUP.rawValue)
    public static let error = Interest(rawValue: EPOLLERR.rawValue)
  }

  public init() throws(Errno) {
    descriptor = OwnedDescriptor(
      adopting: try checkedCall { epoll_create1(CInt(EPOLL_CLOEXEC)) })
  }

  /// For another epoll set: readable while an event waits here.
  public var raw: CInt { descriptor.raw }

  public func add(_ fd: CInt, _ interest: Interest, tag: UInt64) throws(Errno) {
    try control(EPOLL_CTL_ADD, fd, interest, tag)
  }

  /// Changes the interest; a descriptor that is ready already is reported (again).
  public func modify(_ fd: CInt, _ interest: Interest, tag: UInt64) throws(Errno) {
    try control(EPOLL_CTL_MOD, fd, interest, tag)
  }

  public func remove(_ fd: CInt) {
    _ = epoll_ctl(descriptor.raw, EPOLL_CTL_DEL, fd, nil)
  }

  /// Waits for events and calls `body` with the tag and readiness of each (at most 32 a call).
  /// - Parameter milliseconds: -1 waits without end, 0 not at all.
  /// - Returns: the number of events; 0 also when a signal interrupted the wait.
  @discardableResult
  public func wait(
    milliseconds: CInt, _ body: (_ tag: UInt64, _ ready: Interest) -> Void
  ) -> Int {
    unsafe withUnsafeTemporaryAllocation(of: epoll_event.self, capacity: 32) { events in
      let count = unsafe epoll_wait(descriptor.raw, events.baseAddress, 32, milliseconds)
      guard count > 0 else { return 0 }
      for i in 0..<Int(count) {
        unsafe body(events[i].data.u64, Interest(rawValue: events[i].events))
      }
      return Int(count)
    }
  }

  /// Waits for an event, or until the time is over: for who looks everywhere anyway.
  /// - Parameter nanoseconds: whole milliseconds, rounded up, before Linux 5.11; nil: without end.
  public func wait(nanoseconds: UInt64?) {
    clinux_epoll_wait(descriptor.raw, nanoseconds.map { Int64(clamping: $0) } ?? -1)
  }

  private func control(
    _ operation: CInt, _ fd: CInt, _ interest: Interest, _ tag: UInt64
  ) throws(Errno) {
    var event = unsafe epoll_event(events: interest.rawValue, data: epoll_data_t(u64: tag))
    try checkedCall { unsafe epoll_ctl(descriptor.raw, operation, fd, &event) }
  }
}
