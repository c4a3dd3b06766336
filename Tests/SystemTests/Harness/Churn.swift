// The project's own front-end and driver, where a foreign one would be too slow to start.
import Glibc

/// What `bench-driver churn` printed.
struct Churn: CustomStringConvertible {
  var connections: Int
  var restarts: Int
  /// Frames that the daemon took.
  var sent: Int
  /// Those under way when it was hung up on.
  var unknown: Int
  var received: Int
  var seconds: Double
  var longestMilliseconds: Double

  /// The release binary; BENCH_DRIVER names another one.
  static let binary: String = {
    let named = unsafe getenv("BENCH_DRIVER").map { unsafe String(cString: $0) }
    return named ?? Wire.root + "/.build/release/bench-driver"
  }()

  /// From one JSON object with numbers only.
  init(_ text: String) throws {
    let words = text.split { !($0.isNumber || $0.isLetter || $0 == "_" || $0 == "." || $0 == "-") }
    func value(_ name: String) throws -> Double {
      guard let at = words.firstIndex(of: Substring(name)), at + 1 < words.count,
        let value = Double(words[at + 1])
      else { throw HarnessError("no \(name) in: \(text)") }
      return value
    }
    connections = Int(try value("connections"))
    restarts = Int(try value("restarts"))
    sent = Int(try value("sent"))
    unknown = Int(try value("unknown"))
    received = Int(try value("received"))
    seconds = try value("seconds")
    longestMilliseconds = try value("longest_ms")
  }

  var description: String {
    "\(connections) connections, \(restarts) restarts in \(seconds) s, the longest "
      + "\(longestMilliseconds) ms, \(sent) frames"
  }
}

extension Wire {
  /// Runs `bench-driver churn` to its end.
  func churn(_ options: String..., within seconds: Double = 240) throws -> Churn {
    try result(of: startChurn(options), within: seconds)
  }

  /// Starts `bench-driver churn`.
  func startChurn(_ options: [String]) throws -> ChildProcess {
    try start([Churn.binary, "churn", "--socket=\(socket)"] + options, in: .far, name: "churn")
  }

  /// What it printed, once it has ended.
  func result(of churn: ChildProcess, within seconds: Double = 240) throws -> Churn {
    guard try churn.wait(within: seconds) == .exited(0) else { throw HarnessError(churn.output) }
    return try Churn(churn.output)
  }

  /// Transmits as fast as the daemon takes it, until it is ended.
  func startFlood(_ options: String...) throws -> ChildProcess {
    try start(
      [Churn.binary, "flood", "--socket=\(socket)", "--seconds=3600"] + options, in: .far,
      name: "flood")
  }
}
