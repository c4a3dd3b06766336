// A socket to listen at that a service manager made (sd_listen_fds(3)), in place of one of our own.
import Foundation
import Glibc
import Linux
import Testing

@Suite("A socket that was handed in", .serialized)
struct HandedSocketTests {
  private let path = "/tmp/dmn-\(getpid())-handed.sock"

  /// Starts the daemon with `descriptors` from number 3 on, announced as `variables` say.
  private func start(
    _ options: [String], handing descriptors: [CInt],
    variables: String = "LISTEN_PID=$$ LISTEN_FDNAMES=one:two"
  ) throws -> Child {
    // Copies without FD_CLOEXEC, above those numbers; they close themselves in the shell.
    var copies: [CInt] = []
    for descriptor in descriptors { copies.append(fcntl(descriptor, F_DUPFD, 100)) }
    defer { for copy in copies { close(copy) } }
    let moves = copies.enumerated().map { "\($0 + 3)<&\($1) \($1)<&-" }.joined(separator: " ")
    let script =
      "\(variables) LISTEN_FDS=\(descriptors.count) exec \"$0\" \"$@\" \(moves)"
    return try Child(["bash", "-c", script, DaemonProcessTests.program] + options)
  }

  private func serving(_ more: String..., path: String? = nil) -> [String] {
    ["--socket-path=\(path ?? self.path)", "--interface=null:", "--log-level=debug"] + more
  }

  @Test("is listened at, and outlives the daemon with the front-ends that wait")
  func listening() throws {
    let listener = try UnixSocketListener(path: path)
    var status = stat()
    #expect(unsafe lstat(path, &status) == 0)
    let inode = status.st_ino
    for _ in 0..<2 {
      // Before there is a daemon.
      let client = try UnixSocket(connectingTo: path)
      let child = try start(serving(), handing: [listener.raw])
      #expect(child.waitForError("ready: listening on \(path)"))
      #expect(child.waitForError("connected"))
      child.send(SIGTERM)
      #expect(child.wait() == 0)
      #expect(!child.errors.contains("warning"))
      #expect(unsafe lstat(path, &status) == 0 && status.st_ino == inode)
      _ = consume client
    }
  }

  @Test("is refused beside options that leave no room for it, and elsewhere")
  func contradictions() throws {
    let listener = try UnixSocketListener(path: path)
    let cases: [(options: [String], line: String)] = [
      (serving("--client"), "which --client does without"),
      (serving("--socket-mode=0600"), "which --socket-mode does without"),
      (serving("--socket-group=0"), "which --socket-group does without"),
      (serving(path: "/tmp/elsewhere"), "its place is \(path), and not /tmp/elsewhere"),
    ]
    for (options, line) in cases {
      let child = try start(options, handing: [listener.raw])
      #expect(child.wait() == 1)
      #expect(child.errors.contains(line), "\(child.errors)")
    }
  }

  @Test("is refused if it is none, or one of several")
  func kinds() throws {
    let listener = try UnixSocketListener(path: path)
    let client = try UnixSocket(connectingTo: path)
    let file = OwnedDescriptor(adopting: unsafe open("/dev/null", O_RDWR | O_CLOEXEC))
    let cases: [(descriptors: [CInt], line: String)] = [
      (
        [client.raw], "descriptor 3, which was handed in, cannot be listened at: it does not listen"
      ),
      ([file.raw], "it is not a Unix stream socket; give a listening Unix stream socket"),
      ([listener.raw, listener.raw], "several sockets to listen at were handed in"),
    ]
    for (descriptors, line) in cases {
      let child = try start(serving(), handing: descriptors)
      #expect(child.wait() == 1)
      #expect(child.errors.contains(line), "\(child.errors)")
    }
    let announced = try Child(
      [
        "bash", "-c", "LISTEN_PID=$$ LISTEN_FDS=1 exec \"$0\" \"$@\" 3<&-",
        DaemonProcessTests.program,
      ] + serving())
    #expect(announced.wait() == 1)
    #expect(announced.errors.contains("descriptor 3 was announced by LISTEN_FDS=1 and is not open"))
  }

  @Test("is another process's if that is whom LISTEN_PID names")
  func otherProcess() throws {
    let listener = try UnixSocketListener(path: path)
    let own = "/tmp/dmn-\(getpid())-own.sock"
    let child = try start(serving(path: own), handing: [listener.raw], variables: "LISTEN_PID=1")
    #expect(child.waitForError("ready: listening on \(own)"))
    child.send(SIGTERM)
    #expect(child.wait() == 0)
  }
}
