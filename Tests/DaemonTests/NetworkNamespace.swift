// A network namespace of a thread's own: it needs no name, and vanishes with the thread and the
// interfaces in it.
import Glibc
import Linux
import Synchronization

enum NetworkNamespace {
  /// Whether this process may make one.
  static let isAvailable = geteuid() == 0

  struct Unavailable: Error {}

  /// Runs `body` on a thread in a new network namespace.
  static func run<Value: Sendable>(
    _ body: @escaping @Sendable () throws -> Value
  ) throws -> Value {
    let slot = Mutex<Result<Value, any Error>?>(nil)
    let box = Box(slot: slot)
    let thread = try PinnedThread(name: "dmn-namespace") {
      let result: Result<Value, any Error> =
        unshare(0x4000_0000) == 0 ? Result { try body() } : .failure(Unavailable())
      box.slot.withLock { $0 = result }
    }
    thread.join()
    return try box.slot.withLock { $0! }.get()
  }

  private final class Box<Value: Sendable>: Sendable {
    let slot: Mutex<Result<Value, any Error>?>
    init(slot: consuming Mutex<Result<Value, any Error>?>) { self.slot = slot }
  }
}

@_silgen_name("unshare")
private func unshare(_ flags: CInt) -> CInt

struct CommandFailure: Error, CustomStringConvertible {
  var description: String
}

/// Runs a command line (split at spaces) in the calling thread's namespaces.
func run(_ commandLine: String) throws {
  let child = try Child(commandLine.split(separator: " ").map(String.init))
  let status = child.wait()
  guard status == 0 else {
    throw CommandFailure(description: "\(commandLine): status \(status): \(child.errors)")
  }
}
