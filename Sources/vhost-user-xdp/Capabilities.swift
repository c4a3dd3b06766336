// `vhost-user-xdp capabilities`: what this program offers a guest, and what it finds in a network
// interface, as JSON for programs that place guests and for people.
//
// It asks and changes nothing: no program is attached, no queue is taken, and no privilege is
// needed for most of it.  (`--print-capabilities` is another thing: QEMU's convention for back-end
// programs, whose answer has a fixed form.)
import AFXDP
import ArgumentParser
import GuestMemory
import Linux
import VirtioNet

/// The command line behind the word `capabilities`.
struct CapabilitiesCommand: ParsableCommand {
  static let name = "capabilities"

  static let configuration = CommandConfiguration(
    commandName: "vhost-user-xdp \(name)",
    abstract: "Prints, as JSON, what is offered to guests and what an interface is capable of.",
    discussion: """
      Each finding about the interface is "supported", "unsupported" or "unknown", with the reason \
      and the probe that says so. The probes change nothing and need no other daemon to stop. \
      Exit status: 0, \(ExitStatus.failure) if there is no such interface, \(ExitStatus.usage) \
      for a wrong command line.
      """)

  @Option(
    name: .customLong("interface"),
    help: ArgumentHelp("Probe this network interface too.", valueName: "name"),
    transform: PortName.init(option:))
  var port: PortName?

  @Flag(
    name: .customLong("markdown"),
    help: "Print the feature tables of docs/features.md instead.")
  var markdown = false

  func validate() throws {
    switch port {
    case nil, .interface: break
    case let port?:
      throw ValidationError(
        "--interface=\(port) is no network interface: name one (ip link lists them), or leave it out"
      )
    }
  }

  /// What is printed.
  func report() throws(StartFailure) -> String {
    if markdown { return FeatureTable.markdown }
    var members = CapabilitiesCommand.program
    if case .interface(let name)? = port {
      let interface = try Interface.named(name)
      members.append(
        ("interface", CapabilitiesCommand.report(on: interface, InterfaceProbes(interface))))
    }
    return JSONValue.object(members).rendered() + "\n"
  }

  static func report(on interface: Interface, _ probes: InterfaceProbes) -> JSONValue {
    .object(
      [("name", .text(interface.name)), ("index", .number(interface.index))]
        + (probes.identity + probes.abilities).map(member)
        + [("transmit-metadata", .object(probes.transmitMetadata.map(member)))])
  }

  private static func member(_ finding: Finding) -> (String, JSONValue) {
    let details = finding.details.map { detail in
      switch detail.value {
      case .number(let number): (detail.name, JSONValue.number(number))
      case .text(let text): (detail.name, JSONValue.text(text))
      }
    }
    return (
      finding.name,
      .object(
        [("state", .text(finding.state.rawValue))] + details
          + [("reason", .text(finding.reason)), ("probe", .text(finding.probe))])
    )
  }

  /// What does not depend on an interface.
  private static var program: [(String, JSONValue)] {
    [
      ("version", .text(Options.version)),
      ("type", .text("net")),
      ("virtio-features", .array(offered(FeatureTable.virtio))),
      ("protocol-features", .array(offered(FeatureTable.vhostUser))),
      // Any descriptor layout is taken, also a packet without a linear head.
      ("no-linear-tx", .bool(true)),
      ("memory-slots", .number(GuestMemory.maximumRegions)),
    ]
  }

  private static func offered(_ rows: [FeatureRow]) -> [JSONValue] {
    rows.compactMap { row in
      guard case .offered(let condition, _, _) = row.offer else { return nil }
      return .object([
        ("name", .text(row.name)), ("bit", .number(row.bit)),
        ("offered", .text(condition ?? "always")),
      ])
    }
  }
}
