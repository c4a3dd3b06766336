// What a process gives up once everything is open that takes a privilege: capabilities, new ones, and
// the file system.
//
// All of it is a thread's own and is inherited by those that it starts, so this happens while there
// is one thread: the workers are started afterwards.
public import Linux
import CLinux
import Glibc

public enum Privileges {
  /// Gives up all capabilities for good.
  public static func drop() throws(Errno) {
    // First: the system-call filter of a process without privileges needs it.
    try check(clinux_set_no_new_privileges())
    try check(clinux_drop_capabilities())
  }

  /// Closes the file system: names lead nowhere any more, but files may be removed from `directory`.
  /// Descriptors that are open are not touched.
  /// - Returns: false if this kernel has no Landlock (Linux 5.13).
  public static func closeFileSystem(removingFrom directory: String?) throws(Errno) -> Bool {
    let result = unsafe directory.withCString { unsafe clinux_confine_files($0) }
    if result == -ENOSYS || result == -EOPNOTSUPP { return false }
    try check(result)
    return true
  }

  private static func check(_ result: CInt) throws(Errno) {
    if result < 0 { throw Errno(-result) }
  }
}

extension Optional<String> {
  fileprivate func withCString<Result>(_ body: (UnsafePointer<CChar>?) -> Result) -> Result {
    switch self {
    case .some(let text): unsafe text.withCString { unsafe body($0) }
    case nil: body(nil)
    }
  }
}
