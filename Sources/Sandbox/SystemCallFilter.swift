// Which system calls are left to a running daemon (seccomp(2), by libseccomp).
//
// What moves packets and serves front-ends, and what the threads and the memory of the process itself
// take.  Everything else is refused with EPERM, and not by a signal: a C library that tries something
// new first must not end a guest's network.
//
// Of some calls only a form is allowed: memory is never executable, a new thread is no new process,
// and a new socket, if any, is a Unix one.
import CSeccomp
import Glibc
public import Linux

/// What a daemon still does, beside moving packets, that takes calls of its own.
public struct RunningPhase: Equatable, Sendable {
  /// It connects to front-ends (--client).
  public var connects: Bool
  /// At the end it removes the file of its socket.
  public var removesSocket: Bool
  /// Guests come by postcopy migration (--postcopy).
  public var hasPostcopy: Bool

  public init(connects: Bool, removesSocket: Bool, postcopy: Bool = false) {
    self.connects = connects
    self.removesSocket = removesSocket
    hasPostcopy = postcopy
  }
}

public enum SystemCallFilter {
  /// Filters the calls of all threads, those that run and those that come.
  /// - Throws: ENOSYS or EINVAL if the kernel has no seccomp filters.
  public static func install(for phase: RunningPhase) throws(Errno) {
    let errorAction = UInt32(0x0005_0000) | UInt32(EPERM)
    guard let filter = unsafe seccomp_init(errorAction) else { throw Errno(ENOMEM) }
    defer { unsafe seccomp_release(filter) }
    let rules = unsafe Rules(filter: filter)
    try rules.allow(always)
    if phase.removesSocket {
      try rules.allow(["unlink", "unlinkat"])
      // Whether it is still the same file: AT_SYMLINK_NOFOLLOW.
      try rules.allow("newfstatat", where: [Argument(3, equals: 0x100)])
    }
    if phase.connects {
      try rules.allow(["connect"])
      try rules.allow("socket", where: [Argument(0, equals: UInt64(AF_UNIX))])
    }
    // The forms for an open file, AT_EMPTY_PATH: fstat(3), and what is in memory of a peer's, which must
    // not be asked (AT_STATX_DONT_SYNC).  They take a name too, which a filter does not see, and Landlock
    // does not hide what stat tells: that a file is there, its size, times and owner can be found out.
    let atDescriptor: UInt64 = 0x1000
    try rules.allow("newfstatat", where: [Argument(3, equals: atDescriptor)])
    try rules.allow("statx", where: [Argument(2, equals: atDescriptor | 0x4000)])
    for protect in ["mmap", "mprotect"] {
      try rules.allow(protect, where: [Argument(2, mask: UInt64(PROT_EXEC), equals: 0)])
    }
    // CLONE_THREAD
    let thread: UInt64 = 0x10000
    try rules.allow("clone", where: [Argument(0, mask: thread, equals: thread)])
    // Its flags are out of a filter's sight; the C library then takes `clone`.
    try rules.refuse("clone3", ENOSYS)
    // A failed check of the runtime ends the process by a signal to itself.
    try rules.allow("tgkill", where: [Argument(0, equals: UInt64(getpid()))])
    try rules.allow("prctl", where: [Argument(0, equals: UInt64(PR_SET_NAME))])
    // Of this process alone.
    for call in ["prlimit64", "sched_setaffinity"] {
      try rules.allow(call, where: [Argument(0, equals: 0)])
    }
    // SO_OOBINLINE, of a front-end's socket.
    try rules.allow(
      "setsockopt",
      where: [Argument(1, equals: UInt64(SOL_SOCKET)), Argument(2, equals: UInt64(SO_OOBINLINE))])
    // None that have a signal sent to others (F_SETOWN), or that lock and lease.
    for command in fileCommands {
      try rules.allow("fcntl", where: [Argument(1, equals: UInt64(command))])
    }
    if phase.hasPostcopy { try rules.allow(["userfaultfd"]) }
    for request in phase.hasPostcopy ? ioctls + pageFaultRequests : ioctls {
      try rules.allow("ioctl", where: [Argument(1, equals: request)])
    }
    try rules.load()
  }

  private static let always = [
    // Packets, front-ends, notifications.
    "read", "write", "readv", "writev", "recvfrom", "recvmsg", "sendto", "sendmsg", "accept4",
    "getsockopt", "getsockname", "getpeername", "shutdown", "close", "epoll_create1", "epoll_ctl",
    "epoll_wait", "epoll_pwait", "epoll_pwait2", "poll", "ppoll", "eventfd2", "signalfd4",
    "timerfd_create", "timerfd_settime", "fstat", "lseek",
    // What a peer's descriptor is, and calls on one that must not last (Sources/CLinux/foreign_*.c).
    "timer_create", "timer_settime", "timer_delete",
    // Memory: the guest's, in-flight areas, our own.
    "munmap", "mremap", "madvise", "brk", "memfd_create", "ftruncate", "fallocate",
    // Threads, time, the end.
    "futex", "sched_yield", "sched_getaffinity", "getcpu", "set_robust_list",
    "rseq", "gettid", "getpid", "getuid", "geteuid", "getgid", "getegid", "clock_gettime",
    "clock_getres",
    "clock_nanosleep", "nanosleep", "gettimeofday", "time", "restart_syscall", "rt_sigprocmask",
    "rt_sigaction", "rt_sigreturn", "sigaltstack", "rt_sigtimedwait", "rt_sigsuspend", "pause",
    "getrandom", "uname",
    "sysinfo", "membarrier", "exit", "exit_group",
  ]

  /// Flags, copies and seals: F_DUPFD_CLOEXEC, F_ADD_SEALS and F_GET_SEALS are macros.
  private static let fileCommands = [F_GETFD, F_SETFD, F_GETFL, F_SETFL, 1030, 1033, 1034]

  /// Bytes that wait in a socket, to be sent and to be received, and an interface's features (ethtool).
  private static let ioctls: [UInt64] = [0x5411, 0x541b, 0x8946]

  /// UFFDIO_API, UFFDIO_REGISTER, UFFDIO_UNREGISTER, UFFDIO_WAKE.
  private static let pageFaultRequests: [UInt64] = [
    0xc018_aa3f, 0xc020_aa00, 0x8010_aa01, 0x8010_aa02,
  ]

  /// A condition on an argument of a call.
  fileprivate struct Argument {
    let comparison: scmp_arg_cmp

    init(_ number: UInt32, equals value: UInt64) {
      comparison = scmp_arg_cmp(arg: number, op: SCMP_CMP_EQ, datum_a: value, datum_b: 0)
    }

    init(_ number: UInt32, mask: UInt64, equals value: UInt64) {
      comparison = scmp_arg_cmp(
        arg: number, op: SCMP_CMP_MASKED_EQ, datum_a: mask, datum_b: value)
    }
  }

  @safe
  fileprivate struct Rules {
    let filter: scmp_filter_ctx
    /// SCMP_ACT_ALLOW, a macro that Swift does not see.
    static let allow: UInt32 = 0x7fff_0000

    func allow(_ names: [String]) throws(Errno) {
      for name in names { try add(Rules.allow, name, []) }
    }

    func allow(_ name: String, where arguments: [Argument]) throws(Errno) {
      try add(Rules.allow, name, arguments)
    }

    func refuse(_ name: String, _ error: CInt) throws(Errno) {
      try add(0x0005_0000 | UInt32(error), name, [])
    }

    private func add(
      _ action: UInt32, _ name: String, _ arguments: [Argument]
    ) throws(Errno) {
      let number = unsafe seccomp_syscall_resolve_name(name)
      // -1: a call that this library is too old to know; the C library is hardly newer.
      guard number != -1 else { return }
      let comparisons = arguments.map(\.comparison)
      let result = unsafe seccomp_rule_add_array(
        filter, action, number, UInt32(comparisons.count), comparisons)
      // A call that this architecture does not have.
      guard result == 0 || result == -EDOM else { throw Errno(-result) }
    }

    func load() throws(Errno) {
      // All threads; and a tree of comparisons in place of a list, since some calls are hot.
      for (attribute, value) in [(SCMP_FLTATR_CTL_TSYNC, 1), (SCMP_FLTATR_CTL_OPTIMIZE, 2)] {
        let result = unsafe seccomp_attr_set(filter, attribute, UInt32(value))
        guard result == 0 else { throw Errno(-result) }
      }
      let result = unsafe seccomp_load(filter)
      guard result == 0 else { throw Errno(-result) }
    }
  }
}
