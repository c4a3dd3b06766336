// What a peer does behind our back, told to whoever serves it.
//
// Memory that is cut is found out in a signal handler, and an eventfd that keeps its writer waiting on
// the data path.  Neither place can end a connection: it raises the peer's alarm, and the control thread
// finds that in its epoll set.  So nobody has to look for it, and a peer that behaves costs nothing.
public import CLinux
import Glibc

@safe
public final class PeerAlarm: @unchecked Sendable {
  public struct Reasons: OptionSet, Sendable {
    public let rawValue: UInt32
    public init(rawValue: UInt32) { self.rawValue = rawValue }
    /// Memory that it shares is gone; zeros of our own are in its place.
    public static let memoryLost = Reasons(rawValue: CLINUX_ALARM_MEMORY)
    /// An event of its kept the thread waiting that signalled it.
    public static let eventBlocked = Reasons(rawValue: CLINUX_ALARM_BLOCKED)
    /// Memory that it serves faults of has not come for too long; zeros of our own are in its place.
    public static let pagesMissing = Reasons(rawValue: CLINUX_ALARM_PAGES)
  }

  /// For C, valid while this object lives.
  public let raw: UnsafeMutablePointer<clinux_alarm>
  private let event: EventDescriptor?

  /// Without a descriptor left for it in this process, `descriptor` is nil: then somebody has to look.
  public init() {
    do throws(Errno) { event = try EventDescriptor() } catch { event = nil }
    let raw = UnsafeMutablePointer<clinux_alarm>.allocate(capacity: 1)
    unsafe raw.initialize(to: clinux_alarm(reasons: 0, event: event?.raw ?? -1))
    unsafe self.raw = raw
  }

  deinit { unsafe raw.deallocate() }

  /// For an epoll set: readable once the alarm is raised.
  public var descriptor: CInt? { event?.raw }

  public var reasons: Reasons { Reasons(rawValue: unsafe clinux_alarm_reasons(raw)) }

  public func raise(_ reason: Reasons) { unsafe clinux_raise_alarm(raw, reason.rawValue) }
}
