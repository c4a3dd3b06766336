import CLinux
import Glibc
import Testing

@testable import Linux

/// A directory of its own for each test, removed after it.
final class Directory {
  let path: String
  init() throws {
    var template = Array("/tmp/unix-socket-test.XXXXXX".utf8CString)
    let made = unsafe template.withUnsafeMutableBufferPointer { buffer in
      unsafe mkdtemp(buffer.baseAddress!) != nil
    }
    guard made else { throw Errno.current }
    path = unsafe template.withUnsafeBufferPointer { unsafe String(cString: $0.baseAddress!) }
  }
  func file(_ name: String) -> String { path + "/" + name }
  deinit {
    for name in ["s", "f", "t"] { unsafe unlink(file(name)) }
    unsafe rmdir(path)
  }
}

private func exists(_ path: String) -> Bool { unsafe access(path, F_OK) == 0 }

private let CLONE_FS: CInt = 0x200

/// Runs `body` under another umask, which is the calling thread's only: what other tests make at the
/// same time keeps the permissions that they expect.
private func withUmask(_ mask: mode_t, _ body: () throws -> Void) throws {
  try checkedCall { unshare(CLONE_FS) }
  let before = umask(mask)
  defer { umask(before) }
  try body()
}

private func failure(_ body: () throws -> Void) -> UnixSocketError? {
  do { try body() } catch { return error as? UnixSocketError }
  return nil
}

@Suite("Unix sockets")
struct UnixSocketTests {
  private func pair() throws -> (CInt, CInt) {
    var ends: [CInt] = [-1, -1]
    try checkedCall {
      unsafe socketpair(AF_UNIX, CInt(SOCK_STREAM.rawValue | SOCK_CLOEXEC.rawValue), 0, &ends)
    }
    return (ends[0], ends[1])
  }

  @Test("a listener takes connections in order and never waits for one")
  func accept() throws {
    let directory = try Directory()
    let listener = try UnixSocketListener(path: directory.file("s"))
    #expect(try listener.accept() == nil)
    let first = try UnixSocket(connectingTo: directory.file("s"))
    let second = try UnixSocket(connectingTo: directory.file("s"))
    #expect(first.send([1]) == .done(1))
    #expect(second.send([2]) == .done(1))
    for expected in [1, 2] as [UInt8] {
      var buffer: [UInt8] = [0]
      var descriptors = ReceivedDescriptors()
      let accepted = try listener.accept()
      guard let accepted else {
        Issue.record("nobody came")
        return
      }
      #expect(
        try accepted.receive(into: &buffer, at: 0..<1, descriptors: &descriptors) == .bytes(1))
      #expect(buffer == [expected])
    }
    #expect(try listener.accept() == nil)
  }

  @Test("a socket file has the group and the permissions that were asked for, whatever the umask")
  func access() throws {
    let directory = try Directory()
    let path = directory.file("s")
    // A plain user may give a file to its own groups only.
    let group = geteuid() == 0 ? 7 : getegid()
    for (access, mode, owner) in [
      (SocketAccess(mode: 0o666), 0o666, nil), (SocketAccess(group: group), 0o660, group),
      (SocketAccess(mode: 0o600, group: group), 0o600, group),
    ] as [(SocketAccess, UInt32, UInt32?)] {
      for mask in [0, 0o022, 0o077, 0o777] as [mode_t] {
        try withUmask(mask) {
          let listener = try UnixSocketListener(path: path, access: access)
          var status = stat()
          #expect(unsafe lstat(path, &status) == 0)
          #expect(status.st_mode & 0o777 == mode, "umask \(String(mask, radix: 8))")
          #expect(owner == nil || status.st_gid == owner)
          _ = consume listener
        }
      }
    }
  }

  @Test("the kernel tells which user is at the other end")
  func peerUser() throws {
    let (a, b) = try pair()
    #expect(UnixSocket(adopting: OwnedDescriptor(adopting: a)).peerUser == geteuid())
    close(b)
  }

  @Test("the socket file goes with its listener")
  func removal() throws {
    let directory = try Directory()
    do {
      let listener = try UnixSocketListener(path: directory.file("s"))
      #expect(exists(listener.path))
    }
    #expect(!exists(directory.file("s")))
  }

  @Test("a file that a successor put at the path stays")
  func successor() throws {
    let directory = try Directory()
    let path = directory.file("s")
    let second: UnixSocketListener
    do {
      let first = try UnixSocketListener(path: path)
      unsafe unlink(path)
      second = try UnixSocketListener(path: path)
      _ = consume first
    }
    #expect(exists(path))
    #expect(second.raw >= 0)
  }

  @Test("the socket of a dead daemon is replaced")
  func stale() throws {
    let directory = try Directory()
    let path = directory.file("s")
    // What is left behind after kill -9: bound, and nobody listens.
    let dead = OwnedDescriptor(
      adopting: try checkedCall { socket(AF_UNIX, CInt(SOCK_STREAM.rawValue), 0) })
    var address = sockaddr_un()
    address.sun_family = sa_family_t(AF_UNIX)
    unsafe withUnsafeMutableBytes(of: &address.sun_path) { bytes in
      for (i, byte) in path.utf8.enumerated() { unsafe bytes[i] = byte }
    }
    let raw = dead.raw
    try checkedCall {
      unsafe withUnsafeBytes(of: &address) {
        unsafe bind(
          raw, $0.baseAddress!.assumingMemoryBound(to: sockaddr.self),
          socklen_t(MemoryLayout<sockaddr_un>.size))
      }
    }
    #expect(exists(path))
    let listener = try UnixSocketListener(path: path)
    let client = try UnixSocket(connectingTo: path)
    #expect(try listener.accept() != nil)
    #expect(client.raw >= 0)
  }

  @Test("a live socket is refused, its owner named, and goes on")
  func live() throws {
    let directory = try Directory()
    let path = directory.file("s")
    let listener = try UnixSocketListener(path: path)
    let error = failure { _ = try UnixSocketListener(path: path) }
    #expect(error == .inUse(path, owner: Int(getpid())))
    #expect(error?.description.contains("process \(getpid())") == true)
    #expect(exists(path))
    // The probe is a connection that has hung up.
    #expect(try listener.accept() != nil)
  }

  @Test("a live socket whose queue is full is in use too")
  func fullQueue() throws {
    let directory = try Directory()
    let path = directory.file("s")
    let listener = try UnixSocketListener(path: path)
    var held = ReceivedDescriptors()
    while failure({
      let socket = try UnixSocket(connectingTo: path)
      held.append(OwnedDescriptor(adopting: fcntl(socket.raw, F_DUPFD_CLOEXEC, 0)))
    }) == nil, held.count < 100 {}
    #expect(held.count < 100)
    #expect(failure { _ = try UnixSocketListener(path: path) } == .inUse(path, owner: nil))
    #expect(listener.raw >= 0)
  }

  @Test("what is not a socket is left alone")
  func notASocket() throws {
    let directory = try Directory()
    let path = directory.file("f")
    close(unsafe open(path, O_CREAT | O_WRONLY, 0o600))
    #expect(failure { _ = try UnixSocketListener(path: path) } == .notASocket(path))
    #expect(exists(path))
  }

  @Test("a path that an address cannot hold is refused with the limit")
  func longPath() {
    let path = "/" + String(repeating: "x", count: 107)
    #expect(failure { _ = try UnixSocketListener(path: path) } == .pathTooLong(path, limit: 107))
    #expect(failure { _ = try UnixSocket(connectingTo: path) } == .pathTooLong(path, limit: 107))
    #expect(throws: Never.self) { try UnixSocket.check(path: String(path.dropLast())) }
  }

  @Test("a missing directory is said so")
  func missingDirectory() {
    let error = failure { _ = try UnixSocketListener(path: "/nonexistent/s") }
    #expect(error?.description.contains("create the directory first") == true)
  }

  @Test("an inherited descriptor must be a connected Unix stream socket")
  func inherited() throws {
    let (mine, theirs) = try pair()
    let socket = try UnixSocket(inherited: mine)
    #expect(socket.raw == mine)
    #expect(fcntl(mine, F_GETFD) & FD_CLOEXEC != 0)
    close(theirs)

    func refusal(_ number: CInt) -> String? {
      failure { _ = try UnixSocket(inherited: number) }?.description
    }
    #expect(refusal(-1)?.contains("not open") == true)
    #expect(refusal(1_000_000)?.contains("not open") == true)
    let event = try EventDescriptor()
    let notASocket = event.raw
    #expect(refusal(notASocket)?.contains("not a Unix") == true)
    let directory = try Directory()
    let listener = try UnixSocketListener(path: directory.file("s"))
    let listening = listener.raw
    #expect(refusal(listening)?.contains("not connected") == true)
    let lone = OwnedDescriptor(
      adopting: try checkedCall { Glibc.socket(AF_UNIX, CInt(SOCK_STREAM.rawValue), 0) })
    let loneRaw = lone.raw
    #expect(refusal(loneRaw)?.contains("not connected") == true)
  }

  @Test("descriptors arrive in order, and those that nobody takes are closed")
  func descriptors() throws {
    let (a, b) = try pair()
    let sender = UnixSocket(adopting: OwnedDescriptor(adopting: a))
    let receiver = UnixSocket(adopting: OwnedDescriptor(adopting: b))
    var ends: [CInt] = [-1, -1]
    // At once: a child that another test starts would keep one end of it open.
    try checkedCall { unsafe pipe2(&ends, O_CLOEXEC) }
    let readEnd = OwnedDescriptor(adopting: ends[0])
    let event = try EventDescriptor()
    do {
      let sent = [event.raw, ends[1]]
      let raw = sender.raw
      #expect(unsafe clinux_send_fds(raw, "x", 1, sent, 2, 0) == 1)
      close(ends[1])
      var buffer: [UInt8] = [0, 0]
      var descriptors = ReceivedDescriptors()
      #expect(
        try receiver.receive(into: &buffer, at: 0..<2, descriptors: &descriptors) == .bytes(1))
      #expect(descriptors.count == 2)
      let first = try descriptors.takeFirstEvent(of: PeerAlarm())
      first?.signal()
      #expect(event.drain())
      #expect(fcntl(first!.raw, F_GETFL) & O_NONBLOCK != 0)
      #expect(descriptors.count == 1)
    }
    // By a thread of its own.
    let events = waitFor(Int16(POLLIN), of: readEnd.raw, milliseconds: 30_000)
    #expect(events & Int16(POLLHUP) != 0)
  }

  @Test("descriptors come with the bytes that they were sent with", arguments: [false, true])
  func order(outOfBand: Bool) throws {
    let (a, b) = try pair()
    let sender = UnixSocket(adopting: OwnedDescriptor(adopting: a))
    let receiver = UnixSocket(adopting: OwnedDescriptor(adopting: b))
    let event = try EventDescriptor()
    let flag = outOfBand ? CInt(MSG_OOB) : 0
    #expect(sender.send([1, 2]) == .done(2))
    let raw = sender.raw
    #expect(unsafe clinux_send_fds(raw, "\u{3}", 1, [event.raw], 1, flag) == 1)
    #expect(sender.send([4, 5]) == .done(2))
    var received: [UInt8] = []
    while received.count < 5 {
      var buffer: [UInt8] = [0, 0, 0]
      var descriptors = ReceivedDescriptors()
      // One byte, and then as many as there are.
      let most = received.isEmpty ? 1 : 3
      guard
        case .bytes(let count) = try receiver.receive(
          into: &buffer, at: 0..<most, descriptors: &descriptors)
      else { break }
      #expect(descriptors.count == (buffer[..<count].contains(3) ? 1 : 0), "\(received)")
      received += buffer[..<count]
    }
    #expect(received == [1, 2, 3, 4, 5])
  }

  @Test("an empty socket would block, a closed one ends")
  func empty() throws {
    let (a, b) = try pair()
    let receiver = UnixSocket(adopting: OwnedDescriptor(adopting: a))
    var buffer: [UInt8] = [0]
    var descriptors = ReceivedDescriptors()
    #expect(
      try receiver.receive(into: &buffer, at: 0..<1, descriptors: &descriptors) == .wouldBlock)
    close(b)
    // A child that another test starts at this moment holds it, too, until it runs.
    _ = waitFor(Int16(POLLIN), of: receiver.raw, milliseconds: 30_000)
    #expect(
      try receiver.receive(into: &buffer, at: 0..<1, descriptors: &descriptors) == .endOfStream)
    #expect(receiver.send([1]) == .failed(Errno(EPIPE)))
  }
}

@_silgen_name("pipe2")
func pipe2(_ ends: UnsafeMutablePointer<CInt>, _ flags: CInt) -> CInt
