// The daemon as services of a group, which brings signals and orderly shutdown.  The work itself
// is done on plain threads: nothing here runs while packets move.
import Glibc
import Linux
import Logging
import ServiceLifecycle
import Synchronization
import UnixSignals

/// Carries a control loop from the thread that made it to the one that runs it.
final class ControlParcel: Sendable {
  private let loop: Mutex<ControlLoop?>

  init(_ loop: consuming sending ControlLoop) { self.loop = Mutex(loop) }

  /// Nil from the second time on.
  func take() -> sending ControlLoop? { loop.withLock { $0.take() } }
}

/// Runs the control thread until it ends or a shutdown is asked for.
struct DaemonService: Service {
  let loop: ControlParcel
  let requests: ControlRequests
  let logger: Logger

  /// Time for an orderly end; QEMU's conventions want it quick.
  static let patience = Duration.milliseconds(800)

  func run() async throws {
    try await withGracefulShutdownHandler {
      try await runControlThread()
    } onGracefulShutdown: {
      requests.stop.signal()
      forceEndLater()
    }
  }

  private func runControlThread() async throws {
    var thread: PinnedThread?
    let outcome = await withCheckedContinuation { continuation in
      do throws(Errno) {
        thread = try PinnedThread(name: "control") {
          continuation.resume(returning: control())
        }
      } catch {
        continuation.resume(
          returning: .failure(StartFailure("cannot start a thread: \(error); raise its limits")))
      }
    }
    thread.take()?.join()
    try outcome.get()
  }

  /// The control thread's life.
  private func control() -> Result<Void, StartFailure> {
    do throws(StartFailure) {
      if var loop = loop.take() { try loop.run() }
      return .success(())
    } catch {
      return .failure(error)
    }
  }

  /// All that is held ends with the process, so a thread that hangs must not delay it.
  private func forceEndLater() {
    Task {
      try? await Task.sleep(for: DaemonService.patience)
      logger.error("the threads did not end in \(DaemonService.patience); leaving them")
      _exit(0)
    }
  }
}

/// Has the counters printed at each SIGUSR1.
struct ReportService: Service {
  let requests: ControlRequests

  func run() async throws {
    for await _ in await UnixSignalsSequence(trapping: .sigusr1).cancelOnGracefulShutdown() {
      requests.report.signal()
    }
  }
}
