// The file of a listening socket.
//
// What a name leads to can change at any moment, by whoever may write to the directory: QEMU's user, where
// the directory is its own.  So group and mode are set, and the file is known again, by a descriptor of
// the file that was bound.
import CLinux
import Glibc

/// The file that bind(2) made, to be removed unless another one has taken its place.
/// (Not private: in release builds other modules destroy it in line and name its metadata.)
struct SocketFile: ~Copyable, Sendable {
  let path: String
  private let identity: Identity?

  /// - Parameter file: from `open`.
  init(_ file: borrowing OwnedDescriptor, at path: String) {
    self.path = path
    identity = Identity(of: file)
  }

  /// The file that `socket` has just been bound to, at `path`.
  static func open(boundTo socket: CInt, at path: String) throws(UnixSocketError) -> OwnedDescriptor
  {
    let raw = unsafe clinux_bound_file(socket, path)
    if raw == -ENOENT || raw == -EEXIST { throw .replaced(path) }
    try check("open", path, raw)
    return OwnedDescriptor(adopting: raw)
  }

  /// Sets the group, if there is one, and then the mode, which may be for the group alone.
  static func setAccess(
    of file: borrowing OwnedDescriptor, at path: String, group: UInt32?, mode: UInt32
  ) throws(UnixSocketError) {
    if let group { try check("chown", path, clinux_change_group(file.raw, group)) }
    try check("chmod", path, clinux_change_mode(file.raw, mode_t(mode)))
  }

  private static func check(
    _ call: String, _ path: String, _ result: CInt
  ) throws(UnixSocketError) {
    if result < 0 { throw .failed(call: call, path: path, Errno(-result)) }
  }

  deinit { if isInPlace { unsafe unlink(path) } }

  /// Whether `path` still leads to it.
  var isInPlace: Bool { identity != nil && Identity(at: path) == identity }

  private struct Identity: Equatable, Sendable {
    private let device: dev_t
    private let inode: ino_t

    init?(at path: String) { self.init(AT_FDCWD, path, AT_SYMLINK_NOFOLLOW) }

    // AT_EMPTY_PATH
    init?(of file: borrowing OwnedDescriptor) { self.init(file.raw, "", 0x1000) }

    private init?(_ directory: CInt, _ name: String, _ flags: CInt) {
      var status = stat()
      guard unsafe fstatat(directory, name, &status, flags) == 0 else { return nil }
      (device, inode) = (status.st_dev, status.st_ino)
    }
  }
}
