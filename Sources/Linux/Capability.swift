// Capabilities of this process, for messages that name the one that is missing.  capabilities(7).
import CLinux

/// One of those that a daemon needs to start, and that are needed together.
public enum Capability: Int32, Sendable, CaseIterable {
  case networkAdministration = 12
  case bpf = 39

  public var name: String {
    switch self {
    case .networkAdministration: "CAP_NET_ADMIN"
    case .bpf: "CAP_BPF"
    }
  }

  public var isHeld: Bool { clinux_has_capability(rawValue) }

  /// The names of those of `wanted` that this process does not have, or of all if it has them.
  public static func missing(of wanted: [Capability]) -> String {
    let missing = wanted.filter { !$0.isHeld }
    return (missing.isEmpty ? wanted : missing).map(\.name).joined(separator: " and ")
  }
}
