// The process: arguments in, exit status out.
//
// One thread besides those of the data path: it opens everything and then runs the control loop.
// There is no other runtime beneath, such as Swift's concurrency with its pool of threads, which
// reads files of /proc as long as it runs: the sandbox leaves none to be read.
import Glibc
import Linux
import Logging

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
    case .grant(let command, let options, let arguments):
      do throws(StartFailure) {
        try command.run(options, arguments)
      } catch {
        StandardErrorLog.write("error: \(error)")
        exit(ExitStatus.failure)
      }
    case .run(let options):
      do throws(StartFailure) {
        try run(options)
      } catch {
        StandardErrorLog.write("error: \(error)")
        exit(ExitStatus.failure)
      }
    }
  }

  /// Whether descriptors will do, with those that a front-end sends: libraries do not always say what
  /// they lack, and a guest that cannot connect is found out late.
  private static func checkOpenFileLimit(_ limit: Int, _ queuePairs: Int) throws(StartFailure) {
    let needed = 48 + 12 * queuePairs
    guard limit < needed else { return }
    throw StartFailure(
      "the limit of open files is \(limit), --queues=\(queuePairs) may need \(needed); raise it "
        + "(`ulimit -Hn`, systemd: LimitNOFILE=)")
  }

  private static func run(_ options: Options) throws(StartFailure) {
    // First: what is opened here would take the numbers of those that are not there.
    let handed = try starting { try HandedDescriptors.ofThisProcess() }
    let signals = try starting {
      try SignalDescriptor([SIGTERM, SIGINT, SIGUSR1])
    } orSay: {
      "cannot wait for signals: \($0); raise the limit of open files"
    }
    ProcessSettings.ignoreBrokenPipes()
    ProcessSettings.raiseMemoryLockLimit()
    try checkOpenFileLimit(ProcessSettings.raiseOpenFileLimit(), options.queuePairs)
    let logger = Logger.standardError(level: options.logLevel)
    if options.postcopy, !UserFaults.areSupported {
      logger.warning(
        """
        --postcopy has no effect: this kernel has no userfaultfd for shared memory, or does not let \
        this process use it
        """)
    }
    var loop = try ControlLoop(options, handed, signals, logger)
    try loop.run()
  }
}
