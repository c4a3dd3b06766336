// A process that confines itself as the daemon does, and then tries what it may not do any more.
// Prints a line for each attempt: what, and "allowed" or "refused".
//
//   sandbox-probe listen|connect|inherit|postcopy DIRECTORY     files may be removed from DIRECTORY (listen)
import Glibc
import Linux
import RawCalls
import Sandbox

@main
struct SandboxProbe {
  static func main() {
    guard CommandLine.arguments.count == 3 else { exit(64) }
    let mode = CommandLine.arguments[1]
    let directory = CommandLine.arguments[2]
    let null = unsafe Glibc.open("/dev/null", O_RDWR)
    do {
      try confine(
        RunningPhase(
          connects: mode == "connect", removesSocket: mode == "listen",
          postcopy: mode == "postcopy"),
        directory)
    } catch {
      print("cannot be confined: \(error)")
      exit(1)
    }
    tryWhatIsForbidden(null, directory)
    tryWhatServes(null)
  }

  private static func confine(_ phase: RunningPhase, _ directory: String) throws {
    try Privileges.drop()
    let isClosed = try Privileges.closeFileSystem(
      removingFrom: phase.removesSocket ? directory : nil)
    print("file system closed: \(isClosed)")
    // A thread that runs already when the filter comes.
    let ready = try Reply<Bool>()
    let go = try Reply<Bool>()
    let early = try PinnedThread(name: "early") {
      ready.fulfil(true)
      _ = go.wait()
      open("open, in a thread that was there")
    }
    _ = ready.wait()
    try SystemCallFilter.install(for: phase)
    go.fulfil(true)
    early.join()
  }

  private static func tryWhatIsForbidden(_ null: Int32, _ directory: String) {
    open("open")
    withName("/bin/true") { attempt("execute", SYS_execve, $0) }
    attempt("fork", SYS_clone, Int(SIGCHLD))
    attempt("trace", SYS_ptrace)
    attempt("bpf", SYS_bpf, 5)
    attempt("mount", SYS_mount)
    attempt("unshare", SYS_unshare, 0)
    attempt("signal another process", SYS_kill, 1)
    attempt("io_uring", SYS_io_uring_setup, 1)
    attempt("Unix socket", SYS_socket, Int(AF_UNIX), 1)
    attempt("Internet socket", SYS_socket, Int(AF_INET), 1)
    attempt("packet socket", SYS_socket, Int(AF_PACKET), 3)
    attempt("AF_XDP socket", SYS_socket, 44, 3)
    attempt("request to a device", SYS_ioctl, Int(null), 0x5401)
    // UFFD_USER_MODE_ONLY; UFFDIO_REGISTER.
    attempt("page faults", SYS_userfaultfd, 1)
    attempt("request about page faults", SYS_ioctl, Int(null), 0xc020_aa00)
    attempt("executable memory", SYS_mmap, 0, 4096, Int(PROT_READ | PROT_EXEC), 0x22)
    let page = raw_call(Int(SYS_mmap), 0, 4096, Int(PROT_READ | PROT_WRITE), 0x22)
    attempt("memory made executable", SYS_mprotect, page, 4096, Int(PROT_READ | PROT_EXEC))
    attempt("set privileges", SYS_prctl, 8, 1)
    attempt("become another user", SYS_setuid, Int(getuid()))
    attempt("enter a namespace", SYS_setns, Int(null), 0)
    attempt("bind", SYS_bind, Int(null))
    attempt("set an option of a socket", SYS_setsockopt, Int(null))
    attempt("have a signal sent", SYS_fcntl, Int(null), 8, 1)
    attempt("limit another process", SYS_prlimit64, Int(getppid()), 7)
    withName(directory + "/made") {
      attempt("make a folder", SYS_mkdir, $0, 0o700)
      attempt("make a file", SYS_creat, $0, 0o600)
    }
    let status = raw_call(Int(SYS_mmap), 0, 4096, Int(PROT_READ | PROT_WRITE), 0x22)
    withName("/etc/passwd") {
      attempt("stat by name", SYS_newfstatat, -100, $0, status)
      attempt("statx by name", SYS_statx, -100, $0)
      attempt("lstat by name", SYS_newfstatat, -100, $0, status, 0x100)
      attempt("stat by name in the form for descriptors", SYS_newfstatat, -100, $0, status, 0x1000)
    }
    withName(directory + "/socket") { attempt("change permissions", SYS_chmod, $0, 0o777) }
    report("remove elsewhere", unsafe unlink(directory + "-elsewhere") == 0)
    report("remove the socket", unsafe unlink(directory + "/socket") == 0)
  }

  private static func tryWhatServes(_ null: Int32) {
    attempt("memory", SYS_mmap, 0, 4096, Int(PROT_READ | PROT_WRITE), 0x22)
    withName("probe") { attempt("memory file", SYS_memfd_create, $0) }
    attempt("event", SYS_eventfd2, 0)
    var status = stat()
    report("stat of a descriptor", unsafe fstat(null, &status) == 0)
    attempt("write", SYS_write, Int(null), 0, 0)
    let thread = try? PinnedThread(name: "late") {}
    report("thread", thread?.join() != nil)
  }

  private static func open(_ what: String) {
    withName("/etc/passwd") { attempt(what, SYS_openat, -100, $0) }
  }

  private static func attempt(
    _ what: String, _ number: Int32, _ a: Int = 0, _ b: Int = 0, _ c: Int = 0, _ d: Int = 0
  ) {
    let result = raw_call(Int(number), a, b, c, d)
    if result >= 0 || result == -Int(EPERM) || result == -Int(EACCES) {
      report(what, result >= 0)
    } else {
      // It got further than it should have.
      print("\(what): failed by \(-result)")
    }
  }

  private static func report(_ what: String, _ isAllowed: Bool) {
    print("\(what): \(isAllowed ? "allowed" : "refused")")
  }

  private static func withName(_ name: String, _ body: (Int) -> Void) {
    unsafe name.withCString { body(Int(bitPattern: $0)) }
  }
}
