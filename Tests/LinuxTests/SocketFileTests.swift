// Socket files while they are made: beside others that start at the same path, and in a directory that
// somebody else writes to.
import CLinux
import Glibc
import Synchronization
import Testing

@testable import Linux

@Suite("A socket file that is being made", .serialized)
struct SocketFileTests {
  private func status(_ path: String) -> stat? {
    var status = stat()
    return unsafe lstat(path, &status) == 0 ? status : nil
  }

  /// What is left behind after kill -9: bound, and nobody listens.
  private func leaveStaleSocket(at path: String) throws {
    let listener = try UnixSocketListener(path: path)
    // The name that the listener does not take along.
    #expect(unsafe link(path, path + "-") == 0)
    _ = consume listener
    #expect(unsafe rename(path + "-", path) == 0)
  }

  /// Runs `body` on so many threads, and returns when all of them have ended.
  private func onThreads(_ count: Int, _ body: @escaping @Sendable () -> Void) throws {
    guard count > 0 else { return }
    let thread = try PinnedThread(name: "starter", body)
    try onThreads(count - 1, body)
    thread.join()
  }

  /// Keeps the listeners, so that they stay live.
  private final class Race: Sendable {
    final class Winner: Sendable {
      let listener: UnixSocketListener
      init(_ listener: consuming UnixSocketListener) { self.listener = listener }
    }

    let winners = Mutex<[Winner]>([])
    let errors = Mutex<[UnixSocketError]>([])
    let waiting: Atomic<Int>

    init(_ count: Int) { waiting = Atomic(count) }

    func run(_ path: String) {
      waiting.subtract(1, ordering: .acquiringAndReleasing)
      while waiting.load(ordering: .acquiring) > 0 { sched_yield() }
      do throws(UnixSocketError) {
        let winner = Winner(try UnixSocketListener(path: path))
        winners.withLock { $0.append(winner) }
      } catch {
        errors.withLock { $0.append(error) }
      }
    }
  }

  @Test("of several that start at one stale path one wins, and the others are told so")
  func race() throws {
    let directory = try Directory()
    let path = directory.file("s")
    var rounds = 0
    for _ in 0..<400 where rounds < 40 {
      try leaveStaleSocket(at: path)
      let race = Race(6)
      let start = MonotonicClock.milliseconds
      try onThreads(6) { race.run(path) }
      // A machine that held one of them up for longer than the others wait for the lock proves nothing.
      if MonotonicClock.milliseconds - start >= UInt64(DirectoryLock.patience) { continue }
      rounds += 1
      #expect(race.winners.withLock { $0.count } == 1)
      let inUse = UnixSocketError.inUse(path, owner: Int(getpid()))
      #expect(race.errors.withLock { $0 } == [UnixSocketError](repeating: inUse, count: 5))
    }
    #expect(rounds == 40)
  }

  @Test("a directory that somebody keeps locked, or that cannot be read, is done without")
  func lockedDirectory() throws {
    let directory = try Directory()
    let path = directory.file("s")
    let holder = OwnedDescriptor(
      adopting: try checkedCall { unsafe open(directory.path, O_RDONLY | O_CLOEXEC) })
    let raw = holder.raw
    #expect(flock(raw, LOCK_EX) == 0)
    do { _ = try UnixSocketListener(path: path) }
    #expect(unsafe chmod(directory.path, 0o300) == 0)
    do { _ = try UnixSocketListener(path: path) }
  }

  /// Does something to a socket file as soon as it is there.
  private final class Meddler: Sendable {
    let isOver = Atomic(false)
    let done = Atomic(0)

    func run(_ path: String, _ body: () -> Bool) {
      while !isOver.load(ordering: .acquiring) {
        if body() { done.add(1, ordering: .relaxed) }
      }
    }
  }

  /// Starts listeners at `path` while another thread repeats `body`, until that has done something
  /// `times` times, or 10 s are over; until it has done it once, a minute.
  private func start(
    at path: String, _ access: SocketAccess, until times: Int,
    while body: @escaping @Sendable () -> Bool
  ) throws {
    let meddler = Meddler()
    let thread = try PinnedThread(name: "meddler") { meddler.run(path, body) }
    let start = MonotonicClock.milliseconds
    func isOver(_ done: Int) -> Bool {
      done >= times || MonotonicClock.milliseconds - start > (done > 0 ? 10_000 : 60_000)
    }
    while !isOver(meddler.done.load(ordering: .relaxed)) {
      _ = try? UnixSocketListener(path: path, access: access)
      unsafe unlink(path)
    }
    meddler.isOver.store(true, ordering: .releasing)
    thread.join()
    #expect(meddler.done.load(ordering: .relaxed) > 0)
  }

  @Test("a link that takes its place has nothing done to what it leads to")
  func replaced() throws {
    let directory = try Directory()
    let (path, target, trap) = (directory.file("s"), directory.file("f"), directory.file("t"))
    close(unsafe open(target, O_CREAT | O_WRONLY, 0o600))
    let group = status(target)?.st_gid
    try start(at: path, SocketAccess(mode: 0o666, group: 7), until: 300) {
      _ = unsafe symlink(target, trap)
      var status = stat()
      return unsafe lstat(path, &status) == 0 && status.st_mode & S_IFMT == S_IFSOCK
        && rename(trap, path) == 0
    }
    #expect(status(target)?.st_mode == S_IFREG | 0o600)
    #expect(status(target)?.st_gid == group)
  }

  @Test("it never has wider permissions than asked for, and those of the group for that group only")
  func permissions() throws {
    let directory = try Directory()
    let path = directory.file("s")
    let group = geteuid() == 0 ? 7 : getgid()
    let seen = Seen()
    try start(at: path, SocketAccess(mode: 0o060, group: group), until: 20_000) {
      // O_PATH: held, since the next file may get the number of this one.
      let file = unsafe open(path, 0o10000000 | O_NOFOLLOW)
      guard file >= 0 else { return false }
      defer { close(file) }
      // Twice: the kernel reads the group before the mode, and both may change in between.
      var status = stat()
      var later = stat()
      guard unsafe fstat(file, &status) == 0, unsafe fstat(file, &later) == 0 else { return false }
      let wrong = status.st_mode & 0o070 != 0 && later.st_gid != group
      seen.modes.withLock { _ = $0.insert(status.st_mode & 0o777 | (wrong ? 0o1000 : 0)) }
      return true
    }
    #expect(seen.modes.withLock { $0 }.isSubset(of: [0, 0o060]))
  }

  @Test("what is at its path is another file if it is a link, has two names, or is no socket")
  func identity() throws {
    let directory = try Directory()
    let (path, other) = (directory.file("s"), directory.file("t"))
    func refusal() -> CInt {
      // No socket: as without the privilege to be handed the file by the kernel.
      let result = unsafe clinux_bound_file(-1, path)
      if result >= 0 { close(result) }
      return min(result, 0)
    }
    let listener = try UnixSocketListener(path: path)
    #expect(refusal() == 0)
    #expect(unsafe Glibc.link(path, other) == 0)
    #expect(refusal() == -EEXIST)
    #expect(unsafe unlink(path) == 0 && symlink(other, path) == 0)
    #expect(refusal() == -EEXIST)
    #expect(unsafe unlink(path) == 0)
    #expect(refusal() == -ENOENT)
    close(unsafe open(path, O_CREAT | O_WRONLY, 0o600))
    #expect(refusal() == -EEXIST)
    #expect(listener.raw >= 0)
  }

  private final class Seen: Sendable {
    let modes = Mutex<Set<mode_t>>([])
  }
}
