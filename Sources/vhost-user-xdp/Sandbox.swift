// The sandbox of a running daemon: what it gives up between opening everything and serving anybody.
//
// A guest that took this process over would have the descriptors that are open, and no more: no
// capability, no file, no new socket but to a front-end, no other program.
import ArgumentParser
import Glibc
import Linux
import Logging
import Sandbox
import VhostUser

enum SandboxMode: String, CaseIterable, ExpressibleByArgument {
  case strict, off
}

struct Sandbox {
  private let mode: SandboxMode
  private var phase: RunningPhase
  /// Of the socket's file, which is removed at the end.
  private let directory: String?

  init(_ options: Options, _ endpoint: Listener.Endpoint) {
    mode = options.sandbox
    switch endpoint {
    case .listen(let path, _):
      phase = RunningPhase(connects: false, removesSocket: true, postcopy: options.postcopy)
      directory = UnixSocketListener.directory(of: path)
    case .connect:
      phase = RunningPhase(connects: true, removesSocket: false, postcopy: options.postcopy)
      directory = nil
    case .listening, .inherited:
      phase = RunningPhase(connects: false, removesSocket: false, postcopy: options.postcopy)
      directory = nil
    }
  }

  mutating func dropPrivileges(_ logger: Logger) throws(StartFailure) {
    guard mode == .strict else { return }
    let isClosed = try starting {
      try Privileges.drop()
      return try Privileges.closeFileSystem(removingFrom: directory)
    } orSay: {
      "cannot give up privileges: \($0); start with --sandbox=off, or a kernel that lets processes do so"
    }
    if !isClosed {
      // A filter does not see which file it is; a successor removes this one.
      let rest = phase.removesSocket ? ", and the socket stays behind when the daemon ends" : ""
      phase.removesSocket = false
      logger.notice(
        "this kernel has no Landlock: files are out of reach by the system-call filter only\(rest)")
    }
  }

  func filterSystemCalls() throws(StartFailure) {
    guard mode == .strict else { return }
    try starting {
      try SystemCallFilter.install(for: phase)
    } orSay: {
      "cannot filter system calls: \($0); start with --sandbox=off, or a kernel with "
        + "CONFIG_SECCOMP_FILTER"
    }
  }
}
