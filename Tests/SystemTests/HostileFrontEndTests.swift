// Front-ends and guests that do what nobody should: Tests/System/hostile has the attacks.  The daemon
// runs in its sandbox.  After each attack it is alive, has what it had before, and serves a front-end
// that behaves.
import Glibc
import Testing

extension SystemTests {
  @Suite("hostile front-ends and guests")
  struct HostileFrontEnds {
    let wire: Wire
    init() throws { wire = try Wire() }

    @Test("memory that is taken away ends its connection, with the remedy in one line")
    func memory() throws {
      let target = try Target(on: wire)
      for attack in ["cut-memory", "cut-buffers", "cut-log", "cut-inflight"] {
        let before = target.lines("memory that it shares is gone")
        try target.meets(attack)
        target.expectLines("memory that it shares is gone", before + 1, "\(attack)")
      }
      try target.meets("cut-in-time")
      #expect(target.lines("memory-backend-memfd, whose length QEMU seals") > 0)
      #expect(try target.daemon.counter("disconnected", on: "front-ends") >= 4)
      #expect(target.lines(" stopped: ") == 0, "what is in its place makes no ring")
    }

    @Test("descriptors of a wrong kind are refused, and none makes the daemon wait")
    func descriptors() throws {
      let target = try Target(on: wire)
      try target.meets("wrong-kinds")
      try target.meets("surplus")
      try target.meets("own-end")
      try target.meets("shared-channel")
      #expect(target.lines("no shared memory (memfd, tmpfs or hugetlbfs)") > 0)
      for attack in ["blocking-call", "blocking-error"] {
        let before = target.lines("full and made to block")
        try target.meets(attack)
        target.expectLines("full and made to block", before + 1, "\(attack)")
      }
    }

    @Test("where no timer can be had an event that would block is left alone")
    func withoutTimer() throws {
      let daemon = try wire.startDaemon("--queues=2", interface: ["--interface=reflect:"])
      let attack = try Target.start("blocking-call-without-timer", on: wire, daemon)
      #expect(try attack.wait(within: 120) == .exited(0), "\(tail(of: attack.log))")
      #expect(daemon.complaints == [])
    }

    @Test(
      "files whose server does not answer hold nobody up",
      .enabled(if: exists("/dev/fuse"), "no FUSE"))
    func stalledFiles() throws {
      let target = try Target(on: wire)
      try target.meets("fuse")
      target.expectLines("are still being closed", 1)
    }

    @Test("descriptors that take long to close hold nobody up, however they are dropped")
    func lingeringDescriptors() throws {
      let target = try Target(on: wire)
      try target.meets("lingering")
      try target.meets("refused-with-sockets")
    }

    @Test("where no thread can be had to close descriptors, they wait for one")
    func withoutThread() throws {
      let (library, failures) = (wire.folder + "/threads.so", wire.folder + "/failures")
      try wire.shell(
        """
        gcc -shared -fPIC -O1 -o \(library) -x c - <<'END'
        \(Self.failingThreads)
        END
        """)
      let daemon = Daemon(
        process: try wire.start(
          [
            "env", "LD_PRELOAD=\(library)", "FAILURES=\(failures)", Daemon.binary,
            "--socket-path=\(wire.socket)", "--queues=2", "--interface=reflect:",
          ], in: .near, name: "daemon"))
      try daemon.process.waitFor("ready")
      try wire.shell("printf '\\24' | dd of=\(failures) conv=notrunc status=none")
      let attack = try Target.start("refused-with-sockets", on: wire, daemon)
      #expect(try attack.wait(within: 120) == .exited(0), "\(tail(of: attack.log))")
      #expect(try wire.shell("od -An -tu1 -N1 \(failures)").contains(" 0"), "all failures were met")
    }

    // So many next threads cannot be made as the file says.
    private static let failingThreads = """
      #define _GNU_SOURCE
      #include <dlfcn.h>
      #include <errno.h>
      #include <fcntl.h>
      #include <pthread.h>
      #include <stdlib.h>
      #include <sys/mman.h>
      #include <unistd.h>
      static _Atomic unsigned char *left;
      static int (*make)(pthread_t *, const pthread_attr_t *, void *(*)(void *), void *);
      __attribute__((constructor)) static void begin(void) {
        int file = open(getenv("FAILURES"), O_RDWR | O_CREAT | O_CLOEXEC, 0600);
        if (ftruncate(file, 4096)) abort();
        left = mmap(0, 4096, PROT_READ | PROT_WRITE, MAP_SHARED, file, 0);
        close(file);
        make = dlsym(RTLD_NEXT, "pthread_create");
      }
      int pthread_create(
          pthread_t *thread, const pthread_attr_t *kind, void *(*run)(void *), void *argument) {
        if (*left == 0) return make(thread, kind, run, argument);
        --*left;
        return EAGAIN;
      }
      """

    @Test("messages that are cut short, without sense, or whose replies are not read cost little")
    func messages() throws {
      let target = try Target(on: wire)
      try target.meets("nonsense")
      try target.meets("replies-not-read")
      try target.meets("channel-not-read")
      try target.meets("half-a-message")
      target.expectLines("15 of the 20 bytes of a message came within 5000 ms", 1)
      try target.meets("silence")
      target.expectLines("it has made no request for 5 s, and another one waits", 1)
    }

    @Test("floods of messages, kicks and connections stop nobody else")
    func floods() throws {
      let target = try Target(on: wire)
      try target.meets("message-flood")
      try target.meets("kick-flood")
      try target.meets("connection-flood")
      try target.meets("full-backlog")
      #expect(target.lines("is refused: ") < 100, "the log is bounded")
    }

    @Test("a ring that is impossible, or changes while it is read, costs that ring")
    func rings() throws {
      let target = try Target(on: wire)
      try target.meets("impossible-ring")
      target.expectLines("ring 1 stopped: avail.idx is further ahead than the ring is long", 2)
      target.expectLines("ring 1 cannot be started: ", 1)
      #expect(try target.daemon.counter("ring_faults", on: "transmit 0") == 3)
      #expect(try target.daemon.counter("ring_faults", on: "transmit 1") == 0)
      try target.meets("scribble")
    }

    @Test(
      "pages that a front-end does not serve hold the daemon for five seconds and no longer",
      .enabled(if: HostileFrontEnds.hasUserFaults, "no userfaultfd"))
    func pages() throws {
      let target = try Target(on: wire, "--postcopy")
      try target.meets("pages-that-never-come")
    }

    @Test("SIGTERM ends it in time, although a front-end floods it with messages")
    func endInFlood() throws {
      try expectEnd(during: "message-flood-without-end", whichSays: "floods\n")
    }

    @Test(
      "SIGTERM ends it in time, although it waits for pages that never come",
      .enabled(if: HostileFrontEnds.hasUserFaults, "no userfaultfd"))
    func endWithoutPages() throws {
      try expectEnd(during: "pages-that-never-come-until-the-end", whichSays: "stalls\n")
    }

    private func expectEnd(during attack: String, whichSays word: String) throws {
      // It takes no second; pages would be waited for as long as five.  But a busy machine may stand still
      // for seconds, at times.
      var seconds = 0.0
      for _ in 0..<3 {
        let target = try Target(on: wire, "--postcopy")
        let front = try target.start(attack)
        try front.waitFor(word)
        sleep(0.3)
        #expect(front.isRunning, "\(front.output)")
        let begin = now()
        target.daemon.process.send(SIGTERM)
        #expect(try target.daemon.process.wait() == .exited(0))
        seconds = now() - begin
        front.end()
        if seconds < 3 { break }
      }
      #expect(seconds < 3)
    }

    /// The kernel has them, and so the daemon offers them.
    private static let hasUserFaults = exists("/proc/sys/vm/unprivileged_userfaultfd")
  }
}

/// A daemon that is attacked.
private struct Target {
  let wire: Wire
  let daemon: Daemon
  /// After a front-end that behaves, when everything that is kept is there.
  private let before: Usage

  /// What a process uses; attacks must not add to it.
  private struct Usage {
    let descriptors: Int
    let mappings: Int
    /// Resident, in KiB.
    let memory: Int

    init(descriptors: Int, mappings: Int, memory: Int) {
      (self.descriptors, self.mappings, self.memory) = (descriptors, mappings, memory)
    }

    init(of daemon: Daemon) {
      let folder = "/proc/\(daemon.process.pid)"
      descriptors = daemon.descriptors
      mappings = contents(of: folder + "/maps").utf8.count { $0 == UInt8(ascii: "\n") }
      let line = contents(of: folder + "/status").split(separator: "\n")
        .first { $0.hasPrefix("VmRSS:") }
      memory = line.flatMap { Int($0.filter(\.isNumber)) } ?? 0
    }

    func fits(_ most: Usage) -> Bool {
      descriptors <= most.descriptors && mappings <= most.mappings && memory <= most.memory
    }
  }

  init(on wire: Wire, _ options: String...) throws {
    self.wire = wire
    daemon = try wire.startDaemon(
      "--queues=2", interface: ["--interface=reflect:"] + options)
    let script = try Target.start("behaves", on: wire, daemon)
    guard try script.wait(within: 120) == .exited(0) else {
      throw HarnessError(tail(of: script.log))
    }
    try daemon.process.waitFor(" left")
    before = Usage(of: daemon)
  }

  func start(_ attack: String) throws -> ChildProcess {
    try Target.start(attack, on: wire, daemon)
  }

  static func start(
    _ attack: String, on wire: Wire, _ daemon: Daemon
  ) throws -> ChildProcess {
    let script = Wire.root + "/Tests/System/hostile/attack.py"
    return try wire.start(
      ["python3", "-B", script, wire.socket, "\(daemon.process.pid)", attack], in: .near,
      name: attack)
  }

  private func run(_ attack: String) throws {
    let process = try start(attack)
    guard try process.wait(within: 120) == .exited(0) else {
      throw HarnessError("\(attack):\n\(tail(of: process.log))\n\(tail(of: daemon.process.log))")
    }
  }

  /// Attacks, and looks at what is left of the daemon.
  func meets(_ attack: String) throws {
    try run(attack)
    #expect(daemon.process.isRunning, "\(attack)")
    // The arenas of threads that came first to allocate, and of what a table of memory takes.
    let most = Usage(
      descriptors: before.descriptors, mappings: before.mappings + 16,
      memory: before.memory + 8192)
    var last = before
    do {
      try eventually(within: 30, "its resources are back") {
        last = Usage(of: daemon)
        return daemon.guestMappings == 0 && last.fits(most)
      }
    } catch {
      throw HarnessError(
        "after \(attack): \(last), \(daemon.guestMappings) of guest memory; before: \(before)")
    }
  }

  /// Expects so many; the attacker may have ended before they were written.
  func expectLines(
    _ text: String, _ count: Int, _ comment: String = "",
    location: SourceLocation = #_sourceLocation
  ) {
    try? eventually(within: 20, "\(count) lines of \(text)") { lines(text) >= count }
    #expect(lines(text) == count, "\(comment)", sourceLocation: location)
  }

  /// Lines of its log with this text.
  func lines(_ text: String) -> Int {
    daemon.process.output.split(separator: "\n").count { $0.contains(text) }
  }
}
