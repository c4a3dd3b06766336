// Signals as something to read: blocked in every thread, so that none of the data path is ever
// interrupted and one that comes while the process starts is not lost (signalfd(2)).
import CLinux
import Glibc

public struct SignalDescriptor: ~Copyable, Sendable {
  private let descriptor: OwnedDescriptor

  /// Blocks `signals` in the calling thread and in every thread that it starts from now on.
  public init(_ signals: [CInt]) throws(Errno) {
    var set = sigset_t()
    unsafe sigemptyset(&set)
    for signal in signals { unsafe sigaddset(&set, signal) }
    let code = unsafe pthread_sigmask(SIG_BLOCK, &set, nil)
    guard code == 0 else { throw Errno(code) }
    let raw = unsafe clinux_signal_descriptor(&set)
    guard raw >= 0 else { throw Errno(-raw) }
    descriptor = OwnedDescriptor(adopting: raw)
  }

  /// For an epoll set: readable while a signal waits.
  public var raw: CInt { descriptor.raw }

  /// Whether a signal waits, or comes in so many milliseconds (-1: without end); it is not taken.
  public func isWaiting(within milliseconds: CInt) -> Bool {
    waitFor(Int16(POLLIN), of: descriptor.raw, milliseconds: milliseconds) != 0
  }

  /// The next signal that waits; nil if there is none.
  public func next() -> CInt? {
    let signal = clinux_next_signal(descriptor.raw)
    return signal > 0 ? signal : nil
  }
}
