// Descriptors that were opened for this process before it began: by a service manager, of a socket that
// it made itself, or by a process with privileges that this one does without.  They are numbered from 3
// on; LISTEN_FDS says how many, LISTEN_FDNAMES how they are called, and LISTEN_PID whom they are meant
// for: an environment is inherited, and a child's descriptors are others.  sd_listen_fds(3).
import Glibc

/// Descriptors by name; those that nobody takes are closed.
public struct HandedDescriptors: ~Copyable, Sendable {
  /// What the environment says is not so.
  public struct Refusal: Error, Equatable, CustomStringConvertible {
    public let description: String
  }

  private static let first: CInt = 3
  private static let variables = ["LISTEN_PID", "LISTEN_FDS", "LISTEN_FDNAMES"]

  private var entries: [(name: String, raw: CInt)] = []

  /// None yet.
  public init() {}

  deinit { for entry in entries { close(entry.raw) } }

  /// Takes over those that are meant for this process.  Programs that it executes neither have them nor
  /// hear of them.
  public static func ofThisProcess() throws(Refusal) -> HandedDescriptors {
    let (process, count, names) = (
      environmentVariable(variables[0]), environmentVariable(variables[1]),
      environmentVariable(variables[2])
    )
    for variable in variables { unsafe unsetenv(variable) }
    var handed = HandedDescriptors()
    guard let count, process == "\(getpid())" else { return handed }
    guard let count = CInt(count), count >= 0, count < CInt.max - first else {
      throw Refusal(description: "LISTEN_FDS=\(count) is no number of descriptors")
    }
    let list = names?.split(separator: ":", omittingEmptySubsequences: false) ?? []
    for (i, raw) in (first..<first + count).enumerated() {
      guard fcntl(raw, F_SETFD, FD_CLOEXEC) >= 0 else {
        throw Refusal(
          description: "descriptor \(raw) was announced by LISTEN_FDS=\(count) and is not open")
      }
      handed.entries.append((i < list.count ? String(list[i]) : "unknown", raw))
    }
    return handed
  }

  public var isEmpty: Bool { entries.isEmpty }

  public mutating func append(_ name: String, _ descriptor: consuming OwnedDescriptor) {
    entries.append((name, descriptor.release()))
  }

  /// The first one with a name that satisfies `condition`.
  public mutating func take(where condition: (String) -> Bool) -> OwnedDescriptor? {
    guard let i = entries.firstIndex(where: { condition($0.name) }) else { return nil }
    return OwnedDescriptor(adopting: entries.remove(at: i).raw)
  }

  /// The first one with this name.
  public mutating func take(_ name: String) -> OwnedDescriptor? { take { $0 == name } }

  /// The first one with this name, which stays here.
  public borrowing func lend<Result>(_ name: String, _ body: (CInt) -> Result) -> Result? {
    entries.first { $0.name == name }.map { body($0.raw) }
  }

  /// Moves all of `others` here.
  public mutating func append(contentsOf others: consuming HandedDescriptors) {
    entries += others.entries
    others.entries = []
  }

  /// The numbers that `passOn` gives them.
  public var numbers: Range<CInt> {
    HandedDescriptors.first..<HandedDescriptors.first + CInt(entries.count)
  }

  /// Hands all of them to the program that this process executes next.  Descriptors of others that have
  /// these numbers are closed.
  public mutating func passOn() throws(Errno) {
    let end = numbers.upperBound
    // Out of the way first: the numbers may be each other's.
    for i in entries.indices {
      let raw = entries[i].raw
      entries[i].raw = try checkedCall { fcntl(raw, F_DUPFD_CLOEXEC, end) }
      close(raw)
    }
    for (i, entry) in entries.enumerated() {
      // Without FD_CLOEXEC.
      try checkedCall { dup2(entry.raw, HandedDescriptors.first + CInt(i)) }
    }
    let values = [
      "\(getpid())", "\(entries.count)", entries.map(\.name).joined(separator: ":"),
    ]
    for (variable, value) in zip(HandedDescriptors.variables, values) {
      unsafe setenv(variable, value, 1)
    }
  }
}

/// Nil if it is not set, or empty.
func environmentVariable(_ name: String) -> String? {
  guard let value = unsafe getenv(name) else { return nil }
  let text = unsafe String(cString: value)
  return text.isEmpty ? nil : text
}
