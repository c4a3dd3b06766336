// What a process sets for itself before its threads start, and what it can learn of others.
import CLinux
import Glibc

/// Settings of this process.
public enum ProcessSettings {
  /// A write to a closed socket or pipe is an error and not the end.
  public static func ignoreBrokenPipes() {
    _ = signal(SIGPIPE, SIG_IGN)
  }

  /// Raises the limit of locked memory as far as this process may.
  /// - Returns: the limit now, in bytes; nil for none.
  @discardableResult
  public static func raiseMemoryLockLimit() -> UInt64? {
    // RLIMIT_MEMLOCK, which Swift's Glibc lacks, is 8 but on MIPS and SPARC.
    let resource = __rlimit_resource_t(8)
    var limit = rlimit(rlim_cur: .max, rlim_max: .max)
    if unsafe setrlimit(resource, &limit) == 0 { return nil }
    guard unsafe getrlimit(resource, &limit) == 0 else { return 0 }
    limit.rlim_cur = limit.rlim_max
    _ = unsafe setrlimit(resource, &limit)
    return limit.rlim_cur == .max ? nil : UInt64(limit.rlim_cur)
  }

  /// Raises the limit of open files to what the administrator allows.
  /// - Returns: the limit now.
  @discardableResult public static func raiseOpenFileLimit() -> Int {
    // RLIMIT_NOFILE is 7 but on Alpha, MIPS and SPARC.
    let resource = __rlimit_resource_t(7)
    var limit = rlimit()
    guard unsafe getrlimit(resource, &limit) == 0 else { return .max }
    limit.rlim_cur = limit.rlim_max
    _ = unsafe setrlimit(resource, &limit)
    return Int(clamping: limit.rlim_cur)
  }

  /// Makes this process one of another user for good: of `group`, and of no other one but those that the
  /// system's accounts give a user of the name `name`.
  /// - Throws: EPERM without CAP_SETUID and CAP_SETGID.
  public static func become(user: UInt32, group: UInt32, name: String?) throws(Errno) {
    if let name {
      try checkedCall { unsafe initgroups(name, group) }
    } else {
      try checkedCall { setgroups(0, nil) }
    }
    // With the privilege they set the real, the effective and the saved one.
    try checkedCall { setgid(group) }
    try checkedCall { setuid(user) }
  }

  /// Executes this program anew, in this process.
  /// - Parameter arguments: the first is the program's name.
  /// - Returns: why it did not.
  public static func executeAnew(_ arguments: [String]) -> Errno {
    var path = [CChar](repeating: 0, count: Int(PATH_MAX) + 1)
    let length = unsafe readlink("/proc/self/exe", &path, path.count - 1)
    var vector = unsafe arguments.map { unsafe strdup($0) } + [nil]
    defer { for i in arguments.indices { unsafe free(vector[i]) } }
    // By its own path if that is open to this user, so that the process has its name.
    if length > 0 { _ = unsafe execv(path, &vector) }
    _ = unsafe execv("/proc/self/exe", &vector)
    return Errno.current
  }

  /// The name of a process, as ps shows it; nil if there is none (any more).
  public static func name(ofProcess id: Int) -> String? {
    let raw = unsafe open("/proc/\(id)/comm", O_RDONLY | O_CLOEXEC)
    guard raw >= 0 else { return nil }
    let file = OwnedDescriptor(adopting: raw)
    var bytes = [UInt8](repeating: 0, count: 32)
    let count = unsafe read(file.raw, &bytes, bytes.count)
    guard count > 0 else { return nil }
    return String(decoding: bytes.prefix(count).prefix { $0 != UInt8(ascii: "\n") }, as: UTF8.self)
  }

  /// Whether a descriptor can be written to without waiting, now or within so many milliseconds.
  public static func takesWrites(_ descriptor: CInt, within milliseconds: CInt) -> Bool {
    waitFor(Int16(POLLOUT), of: descriptor, milliseconds: milliseconds) & Int16(POLLOUT) != 0
  }

  /// Writes all of `text` to a descriptor, as far as somebody reads it.
  public static func write(_ text: String, to descriptor: CInt) {
    var rest = Array(text.utf8)[...]
    while !rest.isEmpty {
      let result = systemCall {
        unsafe rest.withUnsafeBytes { unsafe Glibc.write(descriptor, $0.baseAddress, $0.count) }
      }
      guard case .done(let count) = result, count > 0 else { return }
      rest = rest.dropFirst(count)
    }
  }
}
