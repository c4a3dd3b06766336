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

  /// Raises the limit of open files to what the administrator allows: a queue pair takes up to
  /// eight descriptors.
  public static func raiseOpenFileLimit() {
    // RLIMIT_NOFILE is 7 but on Alpha, MIPS and SPARC.
    let resource = __rlimit_resource_t(7)
    var limit = rlimit()
    guard unsafe getrlimit(resource, &limit) == 0 else { return }
    limit.rlim_cur = limit.rlim_max
    _ = unsafe setrlimit(resource, &limit)
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
