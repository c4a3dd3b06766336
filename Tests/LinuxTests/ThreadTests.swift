import Glibc
import Linux
import Synchronization
import Testing

@Suite("Threads and mail")
struct ThreadTests {
  /// The name that the kernel shows of the calling thread.
  private static func ownName() -> String {
    let file = unsafe open("/proc/thread-self/comm", O_RDONLY | O_CLOEXEC)
    defer { close(file) }
    var bytes = [UInt8](repeating: 0, count: 64)
    let count = unsafe read(file, &bytes, bytes.count)
    return String(decoding: bytes.prefix(max(0, count - 1)), as: UTF8.self)
  }

  @Test(
    "a thread has its name, cut to 15 bytes",
    arguments: [("worker-0", "worker-0"), ("a-name-that-is-too-long", "a-name-that-is-")])
  func name(asked: String, got: String) throws {
    let reply = try Reply<String>()
    let thread = try PinnedThread(name: asked) { reply.fulfil(ThreadTests.ownName()) }
    #expect(reply.wait() == got)
    thread.join()
  }

  @Test("a thread runs on the CPU it is bound to")
  func pinned() throws {
    let cpu = try #require(PinnedThread.allowedCPUs.last)
    let reply = try Reply<[Int]>()
    let thread = try PinnedThread(name: "pinned", cpu: cpu) {
      reply.fulfil(PinnedThread.allowedCPUs)
    }
    #expect(reply.wait() == [cpu])
    thread.join()
  }

  @Test("a CPU that may not be used is an error, and nothing runs", arguments: [-1, 4096, 1 << 40])
  func badCPU(cpu: Int) {
    let ran = Mutex(false)
    #expect(throws: Errno(EINVAL)) {
      let thread = try PinnedThread(name: "nowhere", cpu: cpu) { ran.withLock { $0 = true } }
      thread.join()
    }
    #expect(!ran.withLock { $0 })
  }

  @Test("join waits for the end")
  func join() throws {
    let ended = Mutex(false)
    let thread = try PinnedThread(name: "slow") {
      usleep(20_000)
      ended.withLock { $0 = true }
    }
    thread.join()
    #expect(ended.withLock { $0 })
  }

  @Test("mail arrives in order, each message once, and wakes the sleeper")
  func mail() throws {
    let mailbox = try Mailbox<Int>()
    #expect(!mailbox.hasMail)
    let reply = try Reply<[Int]>()
    let thread = try PinnedThread(name: "reader") {
      guard let set = try? EpollSet(),
        (try? set.add(mailbox.wakeUp.raw, .readable, tag: 0)) != nil
      else { return reply.fulfil([]) }
      var got: [Int] = []
      while got.count < 2000 {
        if set.wait(milliseconds: 5000, { _, _ in }) == 0 { break }
        mailbox.drain { got.append($0) }
      }
      reply.fulfil(got)
    }
    for i in 0..<2000 { mailbox.post(i) }
    #expect(reply.wait() == Array(0..<2000))
    thread.join()
    // The last one may have been read before `post` said that it is there.
    mailbox.drain { Issue.record("\($0) came twice") }
    #expect(!mailbox.hasMail)
  }

  @Test("drained mail is gone, and later mail is announced again")
  func drain() throws {
    let mailbox = try Mailbox<String>()
    mailbox.post("a")
    mailbox.post("b")
    #expect(mailbox.hasMail)
    var got: [String] = []
    mailbox.drain { got.append($0) }
    #expect(got == ["a", "b"])
    #expect(!mailbox.hasMail)
    #expect(!mailbox.wakeUp.drain())
    mailbox.drain { got.append($0) }
    #expect(got == ["a", "b"])
    mailbox.post("c")
    #expect(mailbox.hasMail)
  }

  @Test("a reply can be fulfilled before anybody waits")
  func early() throws {
    let reply = try Reply<Int>()
    reply.fulfil(5)
    #expect(reply.wait() == 5)
  }
}
