// Those who make sockets in one directory do it one after the other.
//
// Between bind(2) and listen(2) a socket looks like what a dead daemon left, and of two that find one which
// is stale the second might remove what the first has made in its place.
import CLinux

/// Keeps others away, from the look at what is at a path until there is somebody who listens.
///
/// It is had as far as it can be had: whoever may read the directory may keep it locked for ever, and
/// whoever may not read it can make sockets there all the same.
struct DirectoryLock: ~Copyable {
  static let patience: CInt = 1000

  private let descriptor: OwnedDescriptor?

  init(besides path: String) {
    let raw = unsafe clinux_lock_directory(
      UnixSocketListener.directory(of: path), DirectoryLock.patience)
    descriptor = raw >= 0 ? OwnedDescriptor(adopting: raw) : nil
  }

  /// It ends here, and not before.
  consuming func end() {}
}
