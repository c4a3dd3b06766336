// `vhost-user-xdp capabilities`, from outside.
import Linux
import Testing

@testable import vhost_user_xdp

@Suite("Capabilities")
struct CapabilitiesTests {
  /// Runs the command and has another program, which is strict about JSON, look at its output.
  /// - Parameter query: a Python expression of `c`, the document.
  private static func ask(
    _ query: String, _ arguments: String = "", through wrapper: String = ""
  ) throws -> String {
    let python = "import json, sys; c = json.load(sys.stdin); print(\(query))"
    let line = "\(wrapper) \"$1\" capabilities \(arguments) | python3 -c \"$2\""
    let child = try Child(["sh", "-c", line, "sh", DaemonProcessTests.program, python])
    guard child.wait() == 0 else { throw CommandFailure(description: child.errors) }
    return String(child.output.dropLast())
  }

  @Test("the document is JSON, and has what is offered in a stable order")
  func program() throws {
    let members = try CapabilitiesTests.ask("' '.join(c)")
    #expect(
      members == "version type virtio-features protocol-features no-linear-tx memory-slots")
    let scalars = try CapabilitiesTests.ask(
      "c['version'], c['type'], c['no-linear-tx'], c['memory-slots']")
    #expect(scalars == "\(Options.version) net True 509")
    let bits = try CapabilitiesTests.ask(
      "[(f['name'], f['bit']) for f in c['virtio-features'] + c['protocol-features'] "
        + "if f['name'] in ('VERSION_1', 'REPLY_ACK')]")
    #expect(bits == "[('VERSION_1', 32), ('REPLY_ACK', 3)]")
    let condition = try CapabilitiesTests.ask(
      "[f['offered'] for f in c['virtio-features'] if f['name'] == 'MQ'][0]")
    #expect(condition == "with --queues above 1")
  }

  @Test("an unknown interface is one line that names the others, with status 1")
  func unknownInterface() throws {
    let child = try Child([DaemonProcessTests.program, "capabilities", "--interface=dmn-none"])
    #expect(child.wait() == 1)
    #expect(child.output == "")
    #expect(child.errors.contains("there is no interface dmn-none; choose one of"))
    #expect(child.errors.filter(\.isNewline).count == 1)
  }

  @Test(
    "a wrong command line is one line with status 64",
    arguments: ["--interface=null:", "--interface=", "--queues=2", "more"])
  func usage(argument: String) throws {
    let child = try Child([DaemonProcessTests.program, "capabilities", argument])
    #expect(child.wait() == 64)
    #expect(child.output == "")
    #expect(child.errors.filter(\.isNewline).count == 1, "\(child.errors)")
  }

  @Test("the word counts in front only, and --print-capabilities wins over it too")
  func word() {
    guard case .capabilities = Command(["capabilities"]) else {
      Issue.record("not understood")
      return
    }
    guard case .refuse = Command(["--fd=3", "--interface=eth1", "capabilities"]) else {
      Issue.record("taken at the end")
      return
    }
    guard case .print(let text) = Command(["capabilities", "--print-capabilities"]) else {
      Issue.record("not printed")
      return
    }
    #expect(text == "{\"type\":\"net\"}\n")
  }

  @Test("the help is the command's own")
  func help() {
    guard case .print(let text) = Command(["capabilities", "--help"]) else {
      Issue.record("no help")
      return
    }
    #expect(text.contains("--interface") && !text.contains("--queues"))
  }

  @Suite("of an interface", .enabled(if: NetworkNamespace.isAvailable, "needs root"))
  struct OfInterface {
    private func ask(_ query: String, through wrapper: String = "") throws -> String {
      try NetworkNamespace.run {
        try run("ip link add dmn0 mtu 1400 numrxqueues 3 type veth peer name dmn1")
        return try CapabilitiesTests.ask(query, "--interface=dmn0", through: wrapper)
      }
    }

    @Test("each finding has a state, a reason and a probe")
    func shape() throws {
      let members = try ask(
        "[n for n, f in c['interface'].items() if isinstance(f, dict) and 'probe' in f]")
      #expect(
        members == "['driver', 'bus', 'numa-node', 'queues', 'mtu', 'af-xdp', 'native-xdp', "
          + "'zero-copy', 'multi-buffer', 'no-linear-tx']")
      let malformed = try ask(
        "[f for f in list(c['interface'].values()) + list(c['interface']['transmit-metadata']"
          + ".values()) if isinstance(f, dict) and 'probe' in f and not (f['state'] in "
          + "('supported', 'unsupported', 'unknown') and f['reason'] and f['probe'])]")
      #expect(malformed == "[]")
    }

    @Test("a veth is found as it is")
    func veth() throws {
      let facts = try ask(
        "[c['interface'][n].get('value') for n in ('driver', 'bus', 'numa-node', 'mtu')] "
          + "+ [c['interface']['queues']['in-use'], c['interface']['name']]")
      #expect(facts == "['veth', None, None, 1400, 3, 'dmn0']")
      let states = try ask(
        "[c['interface'][n]['state'] for n in ('driver', 'bus', 'mtu', 'af-xdp', 'no-linear-tx')]")
      #expect(states == "['supported', 'unknown', 'supported', 'supported', 'unknown']")
    }

    @Test("without privilege all but the socket is known, and the missing capability is named")
    func unprivileged() throws {
      let socket = try ask(
        "c['interface']['af-xdp']", through: "setpriv --bounding-set=-all --inh-caps=-all")
      #expect(socket.contains("unknown") && socket.contains("CAP_NET_RAW"))
      let privileged = try ask("[f for f in c['interface'].items() if f[0] != 'af-xdp']")
      let unprivileged = try ask(
        "[f for f in c['interface'].items() if f[0] != 'af-xdp']",
        through: "setpriv --bounding-set=-all --inh-caps=-all")
      #expect(privileged == unprivileged)
    }

    @Test("asking leaves the interface as it was")
    func harmless() throws {
      let (before, after) = try NetworkNamespace.run {
        try run("ip link add dmn0 type veth peer name dmn1")
        func details() throws -> String {
          let child = try Child(["ip", "-details", "link", "show", "dmn0"])
          _ = child.wait()
          return child.output
        }
        let before = try details()
        _ = try CapabilitiesTests.ask("c", "--interface=dmn0")
        return (before, try details())
      }
      #expect(before == after && !before.isEmpty)
    }
  }
}

@Suite("JSON")
struct JSONTests {
  @Test("members keep their order; what JSON cannot hold in a string is escaped")
  func rendering() {
    let value = JSONValue.object([
      ("b", .array([.number(-1), .bool(false)])), ("a\"", .text("\\ \n\u{1f} é")),
      ("empty", .array([])), ("none", .object([])),
    ])
    #expect(
      value.rendered() == """
        {
          "b": [
            -1,
            false
          ],
          "a\\"": "\\\\ \\u000a\\u001f é",
          "empty": [],
          "none": {}
        }
        """)
  }
}
