// The built program from outside: what management layers and service managers rely on.
import Foundation
import Glibc
import Linux
import Testing

@Suite("Daemon process", .serialized)
struct DaemonProcessTests {
  /// Beside the test bundle.
  static let program: String = {
    var path = [CChar](repeating: 0, count: 4096)
    let count = unsafe readlink("/proc/self/exe", &path, path.count - 1)
    let bundle =
      CommandLine.arguments.first { $0.hasSuffix(".xctest") }
      ?? String(decoding: path.prefix(max(0, count)).map { UInt8(bitPattern: $0) }, as: UTF8.self)
    return bundle.split(separator: "/", omittingEmptySubsequences: false).dropLast()
      .joined(separator: "/") + "/vhost-user-xdp"
  }()

  private func socketPath(_ name: String) -> String { "/tmp/dmn-\(getpid())-\(name).sock" }

  private func start(_ arguments: String...) throws -> Child {
    try Child([DaemonProcessTests.program] + arguments)
  }

  private func isSocket(_ path: String) -> Bool {
    var status = stat()
    return unsafe lstat(path, &status) == 0 && status.st_mode & S_IFMT == S_IFSOCK
  }

  /// Connects and hangs up.  The queue of a daemon that has no CPU for a while is full soon, and who connects
  /// does not wait there.
  private func visit(_ path: String) throws {
    for _ in 0..<30_000 {
      do throws(UnixSocketError) {
        _ = try UnixSocket(connectingTo: path)
        return
      } catch {
        guard case .failed(call: _, path: _, Errno(EAGAIN)) = error else { throw error }
        usleep(1000)
      }
    }
    Issue.record("there was never room at \(path)")
  }

  @Test("--print-capabilities prints exactly the JSON and ends well")
  func capabilities() throws {
    let child = try start("--print-capabilities", "--socket-path=/nonexistent/x", "--nonsense")
    #expect(child.wait() == 0)
    #expect(child.output == "{\"type\":\"net\"}\n")
    #expect(child.errors == "")
  }

  @Test("a wrong command line is one line on stderr and status 64")
  func usage() throws {
    let child = try start("--socket-path=s")
    #expect(child.wait() == 64)
    #expect(child.output == "")
    #expect(child.errors.hasPrefix("vhost-user-xdp: error: "))
    #expect(child.errors.filter(\.isNewline).count == 1)
  }

  @Test("what the host refuses is one line on stderr and status 1")
  func refusal() throws {
    let child = try start("--socket-path=\(socketPath("refusal"))", "--interface=dmn-none")
    #expect(child.wait() == 1)
    #expect(child.errors.contains("there is no interface dmn-none; choose one of"))
    #expect(child.errors.filter(\.isNewline).count == 1)
    #expect(!isSocket(socketPath("refusal")))
  }

  @Test(
    "SIGTERM and SIGINT end it in under a second with status 0, and the socket goes",
    arguments: [SIGTERM, SIGINT])
  func signals(signal: CInt) throws {
    let path = socketPath("signal")
    // It takes milliseconds, but on a busy machine at times more than a second.
    var wasInTime = false
    for _ in 0..<5 where !wasInTime {
      let child = try start("--socket-path=\(path)", "--interface=null:")
      #expect(child.waitForError("ready: listening on \(path)"))
      #expect(isSocket(path))
      let elapsed = ContinuousClock().measure {
        child.send(signal)
        #expect(child.wait() == 0)
      }
      #expect(elapsed < .seconds(5))
      if hasLeftThreads(child) { continue }
      #expect(!isSocket(path))
      #expect(!child.errors.contains("error"))
      wasInTime = elapsed < .seconds(1)
    }
    #expect(wasInTime)
  }

  /// It has not ended in order, for want of time: then the socket's file stays.
  private func hasLeftThreads(_ child: Child) -> Bool {
    child.errors.contains("the threads did not end")
  }

  @Test("a front-end of another user than --allow-uid names is hung up on, and one of them served")
  func allowedUsers() throws {
    let path = socketPath("users")
    let other = geteuid() + 1
    for (users, isServed) in [([other], false), ([other, geteuid()], true)] {
      let child = try Child(
        [DaemonProcessTests.program, "--socket-path=\(path)", "--interface=null:"]
          + ["--log-level=debug", "--socket-mode=0600"] + users.map { "--allow-uid=\($0)" })
      #expect(child.waitForError("ready"))
      let client = try UnixSocket(connectingTo: path)
      #expect(
        child.waitForError(
          isServed ? "connected" : "of user \(geteuid()) is refused: --allow-uid names others only")
      )
      var buffer: [UInt8] = [0]
      var descriptors = ReceivedDescriptors()
      // The line is written before the socket is closed.
      let patience: CInt = isServed ? 50 : 5000
      #expect((waitFor(Int16(POLLIN), of: client.raw, milliseconds: patience) == 0) == isServed)
      let received = try client.receive(into: &buffer, at: 0..<1, descriptors: &descriptors)
      #expect(received == (isServed ? .wouldBlock : .endOfStream))
      child.send(SIGTERM)
      #expect(child.wait() == 0)
    }
  }

  @Test("an account that does not exist is named")
  func unknownAccount() throws {
    for (option, kind) in [("--allow-uid", "user"), ("--socket-group", "group")] {
      let child = try start(
        "--socket-path=\(socketPath("account"))", "--interface=null:", "\(option)=no-such-one")
      #expect(child.wait() == 1)
      #expect(child.errors.contains("there is no \(kind) no-such-one; create it, or give a number"))
    }
  }

  @Test("no thread of a running daemon has a capability or is without a system-call filter")
  func sandbox() throws {
    for (mode, filter) in [("strict", "2"), ("off", "0")] {
      let path = socketPath("sandbox")
      let child = try start(
        "--socket-path=\(path)", "--interface=null:", "--queues=3", "--sandbox=\(mode)")
      #expect(child.waitForError("ready"))
      let tasks = "/proc/\(child.pid)/task"
      let threads = try FileManager.default.contentsOfDirectory(atPath: tasks)
      // Three workers, the control thread, and the one that ends the process if that does not.
      #expect(threads.count == 5)
      for thread in threads {
        let status = try String(contentsOfFile: "\(tasks)/\(thread)/status", encoding: .utf8)
        let lines = status.split(separator: "\n").map { $0.split(separator: "\t") }
        func value(_ name: String) -> Substring? { lines.first { $0[0] == name + ":" }?.last }
        #expect(value("Seccomp").map(String.init) == filter)
        guard mode == "strict" else { continue }
        for set in ["CapInh", "CapPrm", "CapEff", "CapAmb"] {
          #expect(value(set) == "0000000000000000", "\(set)")
        }
        #expect(value("NoNewPrivs") == "1")
      }
      child.send(SIGTERM)
      #expect(child.wait() == 0)
      #expect(!isSocket(path) || hasLeftThreads(child))
    }
  }

  @Test("a service manager hears when it is ready, that it is alive, and that it ends")
  func notifications() throws {
    let name = "dmn-notify-\(getpid())"
    let manager = try DatagramSocket(abstractName: name)
    let path = socketPath("notify")
    let child = try Child(
      [DaemonProcessTests.program, "--socket-path=\(path)", "--interface=null:", "--queues=2"],
      environment: ["NOTIFY_SOCKET=@\(name)", "WATCHDOG_USEC=150000"])
    #expect(manager.next() == "READY=1\nSTATUS=listening on \(path)")
    for _ in 0..<5 { #expect(manager.next() == "WATCHDOG=1") }
    // A worker that does not go round is not alive; all of its threads are not, here.
    child.stop()
    while manager.next(within: 0) != nil {}
    #expect(manager.next(within: 300) == nil)
    child.send(SIGCONT)
    #expect(manager.next() == "WATCHDOG=1")
    // What finds no room behind others that nobody has read is not sent.
    while manager.next(within: 0) != nil {}
    child.send(SIGTERM)
    var last = manager.next()
    for _ in 0..<100 where last == "WATCHDOG=1" { last = manager.next() }
    #expect(last == "STOPPING=1")
    #expect(child.wait() == 0)
  }

  @Test("SIGUSR1 prints the counters")
  func counters() throws {
    let child = try start("--socket-path=\(socketPath("counters"))", "--interface=null:")
    #expect(child.waitForError("ready"))
    child.send(SIGUSR1)
    #expect(child.waitForError("counters: transmit 0:"))
    child.send(SIGTERM)
    #expect(child.wait() == 0)
  }

  @Test("a socket file that a killed daemon left is replaced, a live daemon's is not")
  func staleSocket() throws {
    let path = socketPath("stale")
    let killed = try start("--socket-path=\(path)", "--interface=null:")
    #expect(killed.waitForError("ready"))
    let second = try start("--socket-path=\(path)", "--interface=null:")
    #expect(second.wait() == 1)
    #expect(second.errors.contains("process \(killed.pid)"))
    killed.send(SIGKILL)
    #expect(killed.wait() == 128 + Int(SIGKILL))
    #expect(isSocket(path))
    let successor = try start("--socket-path=\(path)", "--interface=null:")
    #expect(successor.waitForError("ready"))
    successor.send(SIGTERM)
    #expect(successor.wait() == 0)
  }

  @Test("a front-end is followed by the next one; one at the same time is refused")
  func frontEnds() throws {
    let path = socketPath("frontends")
    let child = try start("--socket-path=\(path)", "--interface=null:", "--log-level=debug")
    #expect(child.waitForError("ready"))
    do {
      let first = try UnixSocket(connectingTo: path)
      #expect(child.waitForError("connected"))
      let second = try UnixSocket(connectingTo: path)
      #expect(child.waitForError("is refused"))
      #expect(first.raw != second.raw)
    }
    #expect(child.waitForError("left"))
    let third = try UnixSocket(connectingTo: path)
    #expect(third.send([UInt8](repeating: 0xff, count: 12)) == .done(12))
    #expect(child.waitForError("is disconnected"))
    child.send(SIGTERM)
    #expect(child.wait() == 0)
  }

  @Test("front-ends that come and go without end do not fill the log")
  func floodOfFrontEnds() throws {
    let path = socketPath("flood")
    let child = try start("--socket-path=\(path)", "--interface=null:")
    #expect(child.waitForError("ready"))
    for _ in 0..<200 {
      try visit(path)
      usleep(2000)
    }
    child.send(SIGTERM)
    #expect(child.wait() == 0)
    let lines = child.errors.split(separator: "\n").count { $0.contains(" left") }
    #expect((2...LogLimit.burst + 20).contains(lines), "\(lines)")
  }

  @Test("a client goes on trying until the front-end listens, and ends while it tries")
  func client() throws {
    let path = socketPath("client")
    let child = try start(
      "--socket-path=\(path)", "--interface=null:", "--client", "--log-level=debug")
    #expect(child.waitForError("trying again"))
    do {
      let listener = try UnixSocketListener(path: path)
      #expect(child.waitForError("connected"))
      #expect(try listener.accept() != nil)
    }
    #expect(child.waitForError("left"))
    child.send(SIGTERM)
    #expect(child.wait() == 0)
  }

  @Test("with --fd it ends well when the connection does")
  func inherited() throws {
    var ends: [CInt] = [-1, -1]
    let type = CInt(SOCK_STREAM.rawValue | SOCK_CLOEXEC.rawValue)
    #expect(unsafe socketpair(AF_UNIX, type, 0, &ends) == 0)
    let kept = OwnedDescriptor(adopting: ends[0])
    let given = OwnedDescriptor(adopting: ends[1])
    _ = fcntl(given.raw, F_SETFD, 0)
    let child = try start("--fd=\(given.raw)", "--interface=null:", "--log-level=debug")
    _ = consume given
    #expect(child.waitForError("connected"))
    _ = consume kept
    #expect(child.wait() == 0)
  }

  @Test(
    "a second daemon on an interface is refused with the first one's pid",
    .enabled(if: NetworkNamespace.isAvailable, "needs root"))
  func secondDaemon() throws {
    let program = DaemonProcessTests.program
    let (first, second) = (socketPath("first"), socketPath("second"))
    let (line, pid) = try NetworkNamespace.run {
      try run("ip link add dmn0 type veth peer name dmn1")
      try run("ethtool -K dmn1 tx off")
      let owner = try Child([program, "--socket-path=\(first)", "--interface=dmn0"])
      guard owner.waitForError("ready") else { throw CommandFailure(description: owner.errors) }
      let refused = try Child([program, "--socket-path=\(second)", "--interface=dmn0"])
      #expect(refused.wait() == 1)
      owner.send(SIGTERM)
      #expect(owner.wait() == 0)
      return (refused.errors, owner.pid)
    }
    #expect(
      line == """
        vhost-user-xdp: error: dmn0: already served by vhost-user-xdp, pid \(pid); stop it or \
        choose another --interface

        """)
  }

  @Test(
    "a daemon ends with status 1 when its interface is deleted, and says so",
    .enabled(if: NetworkNamespace.isAvailable, "needs root"))
  func deletedInterface() throws {
    let program = DaemonProcessTests.program
    let path = socketPath("deleted")
    let errors = try NetworkNamespace.run {
      try run("ip link add dmn0 type veth peer name dmn1")
      let child = try Child([program, "--socket-path=\(path)", "--interface=dmn0"])
      guard child.waitForError("ready") else { throw CommandFailure(description: child.errors) }
      try run("ip link del dmn0")
      #expect(child.wait() == 1)
      return child.errors
    }
    #expect(errors.contains("dmn0 is gone"))
  }
}
