// The process: arguments in, exit status out.
//
// Signals are blocked before the first thread starts and taken by signalfd, so that a thread of
// the data path is never interrupted, and one that comes while the daemon starts is not lost.
import Glibc
import Linux
import Logging
import ServiceLifecycle
import UnixSignals

@main
struct Daemon {
  static func main() {
    switch Command(Array(CommandLine.arguments.dropFirst())) {
    case .print(let text):
      ProcessSettings.write(text, to: STDOUT_FILENO)
    case .refuse(let line):
      StandardErrorLog.write("error: \(line)")
      exit(ExitStatus.usage)
    case .capabilities(let command):
      do throws(StartFailure) {
        ProcessSettings.write(try command.report(), to: STDOUT_FILENO)
      } catch {
        StandardErrorLog.write("error: \(error)")
        exit(ExitStatus.failure)
      }
    case .run(let options):
      run(options)
    }
  }

  private static func run(_ options: Options) -> Never {
    ProcessSettings.block(signals: [SIGTERM, SIGINT, SIGUSR1])
    ProcessSettings.ignoreBrokenPipes()
    ProcessSettings.raiseMemoryLockLimit()
    ProcessSettings.raiseOpenFileLimit()
    do {
      let requests = try ControlRequests()
      let logger = Logger.standardError(level: options.logLevel)
      // Before any other thread: what this one gives up then, none of them has.
      let loop = ControlParcel(try ControlLoop(options, requests, logger))
      let daemon = DaemonService(loop: loop, requests: requests, logger: logger)
      Task { exit(await serve(daemon, requests)) }
      while true { pause() }
    } catch {
      StandardErrorLog.write("error: \(error)")
      exit(ExitStatus.failure)
    }
  }

  /// - Returns: the exit status.
  private static func serve(_ daemon: DaemonService, _ requests: ControlRequests) async -> Int32 {
    do {
      let group = ServiceGroup(
        configuration: ServiceGroupConfiguration(
          services: [
            .init(
              service: daemon, successTerminationBehavior: .gracefullyShutdownGroup,
              failureTerminationBehavior: .gracefullyShutdownGroup),
            .init(service: ReportService(requests: requests)),
          ],
          gracefulShutdownSignals: [.sigterm, .sigint],
          // The group's own account of itself is of no use to those who run the daemon.
          logger: .standardError(level: .warning)))
      try await group.run()
      return 0
    } catch {
      StandardErrorLog.write("error: \(error)")
      return ExitStatus.failure
    }
  }
}
