// What every feature bit means to this device, in one table: the source of docs/features.md and of
// `vhost-user-xdp capabilities`.
//
// The table describes and does not decide.  Which bits are offered is decided by the code that
// implements them, `NetDevice.offeredFeatures` and `offeredProtocolFeatures`, and a test compares
// both with the table in every configuration (Tests/VirtioNetTests/FeatureTableTests.swift).
//
// A feature that begins to work:
// 1. its bit goes into the offered set, in the commit that implements it;
// 2. its row (FeatureTable+Virtio.swift or FeatureTable+Protocol.swift) turns from `.leftOut` into
//    `.offered`: one sentence on the effect, and the title of the test that proves it, as it stands
//    in @Test("…"). A feature with a condition says `when:` and needs a configuration in
//    FeatureTableTests that fulfils the condition, and one that does not;
// 3. `make features` writes the tables of docs/features.md again, which a gate compares.

/// One feature bit.
public struct FeatureRow: Equatable, Sendable {
  public enum Offer: Equatable, Sendable {
    /// - Parameters:
    ///   - when: the condition, to follow the word "offered"; nil: always.
    ///   - effect: what it does here, in a sentence.
    ///   - test: the title of the test that proves it.
    case offered(when: String? = nil, effect: String, test: String)
    case leftOut(because: String)
  }

  public let bit: Int
  /// The specification's name, without its prefix.
  public let name: String
  public let offer: Offer

  init(_ bit: Int, _ name: String, _ offer: Offer) {
    self.bit = bit
    self.name = name
    self.offer = offer
  }
}

public enum FeatureTable {
  /// The two tables of docs/features.md.
  public static var markdown: String {
    """
    ## virtio and virtio-net

    \(table(virtio))

    ## vhost-user protocol features

    \(table(vhostUser))

    """
  }

  private static func table(_ rows: [FeatureRow]) -> String {
    let lines = rows.map { row in
      let (offered, effect, test) =
        switch row.offer {
        case .offered(let condition, let effect, let test): (condition ?? "always", effect, test)
        case .leftOut(let reason): ("no", reason, "")
        }
      return "| `\(row.name)` | \(row.bit) | \(offered) | \(effect) | \(test) |"
    }
    return """
      | Feature | Bit | Offered | Effect, or why it is left out | Test |
      |---|---|---|---|---|
      \(lines.joined(separator: "\n"))
      """
  }
}
