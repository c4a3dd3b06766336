// Who may connect to a socket file, and who is at the other end of a connection.
//
// A guest's memory and its link are for whoever holds the front-end's end of the socket, so the
// file's owner and mode are the first lock, and the peer's credentials, which the kernel vouches
// for, the second.
import CLinux
import Glibc

/// Group and permissions of a socket file.
public struct SocketAccess: Equatable, Sendable {
  /// Permission bits; nil: 0660 if there is a group, else what the process's umask leaves of 0777.
  /// Connecting takes write permission.
  public var mode: UInt32?
  /// Group id; nil: the process's own.
  public var group: UInt32?

  public init(mode: UInt32? = nil, group: UInt32? = nil) {
    self.mode = mode
    self.group = group
  }
}

/// User and group ids by name.
public enum Accounts {
  /// - Returns: nil if there is no such user.
  public static func user(_ name: String) -> UInt32? {
    unsafe getpwnam(name)?.pointee.pw_uid
  }

  /// The primary group of a user.
  /// - Returns: nil if there is no such user.
  public static func primaryGroup(ofUser user: UInt32) -> UInt32? {
    unsafe getpwuid(user)?.pointee.pw_gid
  }

  /// - Returns: nil if there is no such group.
  public static func group(_ name: String) -> UInt32? {
    unsafe getgrnam(name)?.pointee.gr_gid
  }
}

extension UnixSocket {
  /// User id of the peer at the time it connected (of the listener, if this side connected); nil if
  /// the kernel did not tell.
  public var peerUser: UInt32? {
    let user = clinux_peer_user(raw)
    return user >= 0 ? UInt32(truncatingIfNeeded: user) : nil
  }
}
