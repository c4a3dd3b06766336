// The end in any case: all that is held ends with the process, so a thread that hangs must not delay
// it.
//
// Signals are read by the control thread, and it may be the one that hangs: a front-end that serves no
// faults of a postcopy migration, or whose descriptor cannot be closed, has means to make it wait.  So
// another thread looks whether a signal to end lies there and nobody takes it.
import Glibc
import Linux
import Logging

enum LastResort {
  /// Time for an orderly end; QEMU's conventions want it quick.
  private static let patience = Duration.milliseconds(800)
  private static let interval = Duration.milliseconds(50)

  /// Ends the process when a signal to do so has not been taken for that long.
  static func watch(_ logger: Logger) {
    do throws(Errno) {
      let signals = Signals(try SignalDescriptor([SIGTERM, SIGINT]))
      _ = try PinnedThread(name: "last-resort") {
        var waited = Duration.zero
        while waited < patience {
          // Without end at first: an idle daemon sleeps.
          let isThere = signals.descriptor.isWaiting(within: waited == .zero ? -1 : 0)
          waited = isThere ? waited + interval : .zero
          if isThere { usleep(UInt32(interval / .microseconds(1))) }
        }
        leave(logger)
      }
    } catch {
      logger.warning("nobody will see that a signal to end is not taken: \(error)")
    }
  }

  /// For a thread to keep.
  private final class Signals: Sendable {
    let descriptor: SignalDescriptor
    init(_ descriptor: consuming SignalDescriptor) { self.descriptor = descriptor }
  }

  /// The same from now on, whatever it ends for, with the exit status of that.
  static func end(_ logger: Logger, status: CInt) {
    _ = try? PinnedThread(name: "patience") {
      usleep(UInt32(patience / .microseconds(1)))
      leave(logger, status: status)
    }
  }

  private static func leave(_ logger: Logger, status: CInt = EXIT_SUCCESS) -> Never {
    logger.error("the threads did not end in \(patience); leaving them")
    _exit(status)
  }
}
