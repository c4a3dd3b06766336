// Options that say who may connect, and what becomes of them once names are looked up.
import ArgumentParser
import Linux

/// Permission bits of a file: 0660, 660.
struct FileMode: Equatable, ExpressibleByArgument, CustomStringConvertible {
  var bits: UInt32

  init?(argument: String) {
    guard let bits = UInt32(argument, radix: 8), bits <= 0o777 else { return nil }
    self.bits = bits
  }

  var description: String { "0" + String(bits, radix: 8) }
}

/// A user or a group, by name or number.
enum Account: Equatable, ExpressibleByArgument, CustomStringConvertible {
  case number(UInt32)
  case name(String)

  init?(argument: String) {
    // All ones are "no one" to chown(2).
    if argument.allSatisfy(\.isNumber) {
      guard let number = UInt32(argument), number < .max else { return nil }
      self = .number(number)
    } else {
      self = .name(argument)
    }
  }

  var description: String {
    switch self {
    case .number(let number): "\(number)"
    case .name(let name): name
    }
  }

  /// The number of the user of this name.
  func userID() throws(StartFailure) -> UInt32 { try id("user") { Accounts.user($0) } }

  /// The number of the group of this name.
  func groupID() throws(StartFailure) -> UInt32 { try id("group") { Accounts.group($0) } }

  /// Its number, which for a name the system's accounts have.
  private func id(
    _ kind: String, _ look: (String) -> UInt32?
  ) throws(StartFailure) -> UInt32 {
    switch self {
    case .number(let number): return number
    case .name(let name):
      if let id = look(name) { return id }
      throw StartFailure("there is no \(kind) \(name); create it, or give a number")
    }
  }
}

extension Options {
  func socketAccess() throws(StartFailure) -> SocketAccess {
    SocketAccess(
      mode: socketMode?.bits, group: try socketGroup?.groupID())
  }

  /// Users whose front-ends are served; nil: all.
  func allowedUserIDs() throws(StartFailure) -> Set<UInt32>? {
    if allowedUsers.isEmpty { return nil }
    var ids: Set<UInt32> = []
    for user in allowedUsers { ids.insert(try user.userID()) }
    return ids
  }
}
