// The one error that ends the daemon: a line for people.

/// Why the daemon does not start, or cannot go on: one line, with the remedy.
struct StartFailure: Error, Equatable, CustomStringConvertible {
  let description: String
  init(_ description: String) { self.description = description }
}

/// Does `work`; an error of it becomes a `StartFailure`.
/// - Parameter message: the line; without it the error speaks for itself.
func starting<Value: ~Copyable>(
  _ work: () throws -> Value, orSay message: (any Error) -> String = { "\($0)" }
) throws(StartFailure) -> Value {
  do {
    return try work()
  } catch let failure as StartFailure {
    throw failure
  } catch {
    throw StartFailure(message(error))
  }
}
