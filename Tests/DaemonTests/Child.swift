// A child process with its stdout and stderr in pipes.
import CLinux
import Glibc
import Linux

final class Child {
  let pid: pid_t
  private let outputEnd: OwnedDescriptor
  private let errorEnd: OwnedDescriptor
  private(set) var output = ""
  private(set) var errors = ""
  private var status: Int?

  /// - Parameters:
  ///   - arguments: the program, looked up in PATH, first.
  ///   - environment: "NAME=value", beside this process's own.
  init(_ arguments: [String], environment: [String] = []) throws {
    let output = try Pipe()
    let errors = try Pipe()
    var actions = unsafe posix_spawn_file_actions_t()
    unsafe posix_spawn_file_actions_init(&actions)
    defer { unsafe posix_spawn_file_actions_destroy(&actions) }
    unsafe posix_spawn_file_actions_adddup2(&actions, output.writer.raw, STDOUT_FILENO)
    unsafe posix_spawn_file_actions_adddup2(&actions, errors.writer.raw, STDERR_FILENO)
    var vector = unsafe arguments.map { unsafe strdup($0) } + [nil]
    defer { for i in arguments.indices { unsafe free(vector[i]) } }
    var variables = unsafe environment.map { unsafe strdup($0) }
    defer { for i in environment.indices { unsafe free(variables[i]) } }
    var own = unsafe environ
    while let variable = unsafe own.pointee {
      unsafe variables.append(variable)
      unsafe own += 1
    }
    unsafe variables.append(nil)
    var pid: pid_t = 0
    let code = unsafe posix_spawnp(&pid, vector[0]!, &actions, nil, &vector, &variables)
    guard code == 0 else { throw Errno(code) }
    self.pid = pid
    outputEnd = output.reader
    errorEnd = errors.reader
  }

  deinit {
    if status == nil {
      kill(pid, SIGKILL)
      _ = wait()
    }
  }

  func send(_ signal: CInt) { kill(pid, signal) }

  /// Stops it; returns when each of its threads has.
  func stop() {
    send(SIGSTOP)
    var code: CInt = 0
    while unsafe waitpid(pid, &code, WUNTRACED) < 0 && errno == EINTR {}
  }

  /// Reads to the end of both pipes and reaps the child.
  /// - Returns: the exit status, or 128 and the signal that ended it.
  func wait() -> Int {
    if let status { return status }
    output += Child.readAll(outputEnd.raw)
    errors += Child.readAll(errorEnd.raw)
    var code: CInt = 0
    while unsafe waitpid(pid, &code, 0) < 0 && errno == EINTR {}
    let status = code & 0x7f == 0 ? Int(code >> 8) & 0xff : 128 + Int(code & 0x7f)
    self.status = status
    return status
  }

  /// Waits until stderr contains `text`, at most `seconds`.
  func waitForError(_ text: String, seconds: Int = 60) -> Bool {
    var buffer = [UInt8](repeating: 0, count: 4096)
    var tries = seconds * 10
    while !errors.contains(text), tries > 0 {
      guard waitFor(Int16(POLLIN), of: errorEnd.raw, milliseconds: 100) != 0 else {
        tries -= 1
        continue
      }
      let count = unsafe read(errorEnd.raw, &buffer, buffer.count)
      guard count > 0 else { break }
      errors += String(decoding: buffer.prefix(count), as: UTF8.self)
    }
    return errors.contains(text)
  }

  private struct Pipe: ~Copyable {
    let reader: OwnedDescriptor
    let writer: OwnedDescriptor

    init() throws {
      var ends: [CInt] = [-1, -1]
      // At once: another test may start a child at this moment, which would hold them as long as it lives.
      guard unsafe pipe2(&ends, O_CLOEXEC) == 0 else { throw Errno.current }
      reader = OwnedDescriptor(adopting: ends[0])
      writer = OwnedDescriptor(adopting: ends[1])
    }
  }

  private static func readAll(_ raw: CInt) -> String {
    var bytes: [UInt8] = []
    var buffer = [UInt8](repeating: 0, count: 65536)
    while true {
      let count = unsafe read(raw, &buffer, buffer.count)
      if count < 0 && errno == EINTR { continue }
      guard count > 0 else { return String(decoding: bytes, as: UTF8.self) }
      bytes += buffer.prefix(count)
    }
  }
}

@_silgen_name("pipe2")
private func pipe2(_ ends: UnsafeMutablePointer<CInt>, _ flags: CInt) -> CInt
