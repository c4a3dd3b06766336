// What a service manager is told about this process: a datagram to the socket that it names in the
// environment (sd_notify(3), "Notes").  Without one all of this does nothing.
import CLinux
import Glibc

public struct ServiceNotification: ~Copyable, Sendable {
  private let socket: OwnedDescriptor?
  /// How often the manager wants to hear of us at least, in milliseconds; nil: it does not care.
  public let watchdogInterval: UInt64?

  /// Opens the socket that NOTIFY_SOCKET names.
  /// - Throws: if there is one and it cannot be connected to.
  public init() throws(Errno) {
    guard let path = environmentVariable("NOTIFY_SOCKET") else {
      socket = nil
      watchdogInterval = nil
      return
    }
    let raw = unsafe clinux_connect_datagram(path)
    guard raw >= 0 else { throw Errno(-raw) }
    socket = OwnedDescriptor(adopting: raw)
    // WATCHDOG_PID names whom the interval is meant for, if it is there.
    let isForUs = environmentVariable("WATCHDOG_PID").map { $0 == "\(getpid())" } ?? true
    let microseconds = environmentVariable("WATCHDOG_USEC").flatMap { UInt64($0) }
    watchdogInterval = isForUs ? microseconds.map { max(1, $0 / 1000) } : nil
  }

  /// Start-up is complete; waits until the manager has room for it, which waits for nothing else.
  /// - Parameter status: a line for people, as for `status`.
  public borrowing func ready(status: String) { send("READY=1\nSTATUS=\(status)", waits: true) }

  /// A line for people on what the process does now.
  public borrowing func status(_ text: String) { send("STATUS=\(text)") }

  /// The process is well.
  public borrowing func isAlive() { send("WATCHDOG=1") }

  /// It ends.
  public borrowing func stopping() { send("STOPPING=1") }

  private borrowing func send(_ text: String, waits: Bool = false) {
    switch socket {
    case .some(let socket):
      let raw = socket.raw
      var text = text
      let flags = CInt(MSG_NOSIGNAL) | (waits ? 0 : CInt(MSG_DONTWAIT))
      _ = text.withUTF8 {
        unsafe Glibc.send(raw, $0.baseAddress, $0.count, flags)
      }
    case nil: break
    }
  }
}
