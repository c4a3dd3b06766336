// Processes that a test starts: each in a process group of its own, so that it and what it starts
// end with the test, with its output in a file that the test can wait on.
//
// A file, not a pipe: nobody has to read it while the process runs, and a failed test can quote
// its last lines.
import Glibc

/// Why a step of a test could not be done.
struct HarnessError: Error, CustomStringConvertible {
  let description: String
  init(_ description: String) { self.description = description }
}

/// How a process ended.
enum ExitStatus: Equatable {
  case exited(Int32)
  case killed(bySignal: Int32)
}

final class ChildProcess {
  let name: String
  let pid: pid_t
  /// The file with its stdout and stderr.
  let log: String
  private let input: Int32
  private var status: ExitStatus?

  /// Starts `arguments`, found by PATH.
  ///
  /// - Parameter log: the file for its output; appended to.
  init(_ arguments: [String], name: String? = nil, log: String) throws {
    self.name = name ?? arguments[0]
    self.log = log
    _ = Self.ignoreBrokenPipes

    var ends: [Int32] = [-1, -1]
    guard unsafe pipe(&ends) == 0 else { throw HarnessError("no pipe: errno \(errno)") }
    for end in ends { _ = fcntl(end, F_SETFD, FD_CLOEXEC) }
    defer { close(ends[0]) }
    input = ends[1]

    var actions = unsafe posix_spawn_file_actions_t()
    unsafe posix_spawn_file_actions_init(&actions)
    defer { unsafe posix_spawn_file_actions_destroy(&actions) }
    unsafe posix_spawn_file_actions_adddup2(&actions, ends[0], 0)
    unsafe posix_spawn_file_actions_addopen(&actions, 1, log, O_WRONLY | O_CREAT | O_APPEND, 0o644)
    unsafe posix_spawn_file_actions_adddup2(&actions, 1, 2)

    // The test runner's own signal mask and ignored signals are no business of the child.
    var attributes = posix_spawnattr_t()
    var signals = sigset_t()
    unsafe posix_spawnattr_init(&attributes)
    defer { unsafe posix_spawnattr_destroy(&attributes) }
    unsafe sigemptyset(&signals)
    unsafe posix_spawnattr_setsigmask(&attributes, &signals)
    unsafe sigaddset(&signals, SIGPIPE)
    unsafe posix_spawnattr_setsigdefault(&attributes, &signals)
    unsafe posix_spawnattr_setpgroup(&attributes, 0)
    let flags = POSIX_SPAWN_SETPGROUP | POSIX_SPAWN_SETSIGMASK | POSIX_SPAWN_SETSIGDEF
    unsafe posix_spawnattr_setflags(&attributes, Int16(flags))

    var pid: pid_t = 0
    let environment = contents(of: "/proc/self/environ").split(separator: "\0").map(String.init)
    let result = unsafe withCStrings(arguments) { argv in
      unsafe withCStrings(environment) { envp in
        unsafe posix_spawnp(&pid, arguments[0], &actions, &attributes, argv, envp)
      }
    }
    guard result == 0 else {
      close(ends[1])
      throw HarnessError("\(arguments[0]) does not start: errno \(result)")
    }
    self.pid = pid
  }

  /// A write to a process that has died is an error of the call, not the end of the test runner.
  private static let ignoreBrokenPipes: Bool = {
    signal(SIGPIPE, SIG_IGN)
    return true
  }()

  var isRunning: Bool { poll() == nil }

  /// How it ended; nil while it runs.
  func poll() -> ExitStatus? {
    guard status == nil else { return status }
    var word: Int32 = 0
    guard unsafe waitpid(pid, &word, WNOHANG) == pid else { return nil }
    close(input)
    let signal = word & 0x7f
    status = signal == 0 ? .exited((word >> 8) & 0xff) : .killed(bySignal: signal)
    return status
  }

  /// Waits for its end.  One that has AF_XDP sockets may have to wait for a grace period of RCU in its
  /// turn, which takes as long as seven seconds on a busy machine.
  func wait(within seconds: Double = 60) throws -> ExitStatus {
    try eventually(within: seconds, "\(name) ends", log: log) { poll() != nil }
    return status!
  }

  func send(_ signal: Int32) {
    if poll() == nil { kill(pid, signal) }
  }

  /// Gives it a line on its standard input.
  func type(_ line: String) throws {
    let bytes = Array((line + "\n").utf8)
    guard unsafe write(input, bytes, bytes.count) == bytes.count else {
      throw HarnessError("\(name) does not read its input\n\(tail(of: log))")
    }
  }

  /// What it has printed so far.
  var output: String { contents(of: log) }

  /// Waits until it prints `text`, and the line that it ends in: a line may be written in parts.
  ///
  /// - Parameters:
  ///   - after: a length of `output` to look from.
  ///   - isPrompt: no end of line comes after `text`.
  /// - Returns: what it has printed from `after` on.
  @discardableResult
  func waitFor(
    _ text: String, after: Int = 0, within seconds: Double = 60, isPrompt: Bool = false
  ) throws -> String {
    var found = ""
    try eventually(within: seconds, "\(name) prints \"\(text)\"", log: log) {
      // Looked at before its output: what has ended prints nothing more.
      let hasEnded = !isRunning
      found = String(decoding: output.utf8.dropFirst(after), as: UTF8.self)
      if let range = found.firstRange(of: text) {
        let isWhole = text.hasSuffix("\n") || found[range.upperBound...].contains("\n")
        if isPrompt || isWhole || hasEnded { return true }
      }
      guard !hasEnded else {
        throw HarnessError("\(name) ended before it printed \"\(text)\"\n\(tail(of: log))")
      }
      return false
    }
    return found
  }

  /// Ends it, and what it started: SIGTERM, then SIGKILL for the whole group.
  func end(within seconds: Double = 2) {
    send(SIGTERM)
    _ = try? wait(within: seconds)
    // Its own id stays its own until it is waited for; the group's as long as a member lives.
    if status == nil {
      kill(-pid, SIGKILL)
      _ = try? wait()
    }
  }
}

/// `strings` as a null-terminated array of C strings, valid during `body`.
private func withCStrings<Result>(
  _ strings: [String],
  _ body: (UnsafeMutablePointer<UnsafeMutablePointer<CChar>?>) -> Result
) -> Result {
  var pointers: [UnsafeMutablePointer<CChar>?] = unsafe strings.map { unsafe strdup($0) }
  unsafe pointers.append(nil)
  defer { unsafe pointers.forEach { unsafe free($0) } }
  return unsafe pointers.withUnsafeMutableBufferPointer { unsafe body($0.baseAddress!) }
}
