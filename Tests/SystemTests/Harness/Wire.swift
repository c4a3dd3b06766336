// The scene of a test: two network namespaces joined by a veth pair, a folder, and everything that
// runs on them; made by the scripts of Tests/System/lab and gone when the test ends, however it
// ends.
//
//   near: nic0, the interface that the daemon owns  |  far: peer0, the other host
//
// All processes of a test run in one of the two namespaces. So those of a test runner that was
// itself killed can be found and ended by the next one: the namespaces carry its process id.
import Glibc
import Synchronization

final class Wire {
  enum End: String {
    case near
    case far
    var interface: String { self == .near ? "nic0" : "peer0" }
  }

  /// Prefix of the namespaces' names.
  let name: String
  let folder: String
  private(set) var processes: [ChildProcess] = []
  private var scripts = 0

  init(queues: Int = 1, mtu: Int = 1500) throws {
    _ = Self.removeLeftovers
    let number = Self.made.add(1, ordering: .relaxed).newValue
    name = "sys\(getpid())x\(number)"
    folder = "/tmp/vhost-user-xdp-\(name)"
    guard unsafe mkdir(folder, 0o700) == 0 else {
      throw HarnessError("\(folder) cannot be made: errno \(errno)")
    }
    do {
      // Without IPv6 the far end sends nothing of its own accord, and counts can be exact.
      try shell(
        """
        netns_create \(name) \(queues) \(mtu)
        netns_far sysctl -qw net.ipv6.conf.peer0.disable_ipv6=1
        """)
    } catch {
      remove()
      throw error
    }
  }

  deinit { remove() }

  private static let made = Atomic<Int>(0)

  /// The socket between front-end and back-end.
  var socket: String { folder + "/sock" }

  /// The namespace at `end`.
  func namespace(_ end: End) -> String { "\(name)-\(end.rawValue)" }

  /// Starts a process, which ends with the wire.
  func start(_ arguments: [String], in end: End, name: String) throws -> ChildProcess {
    // ip replaces itself by the command: the process id is the command's own.
    let child = try ChildProcess(
      ["ip", "netns", "exec", namespace(end)] + arguments, name: name,
      log: "\(folder)/\(name)-\(processes.count).log")
    processes.append(child)
    return child
  }

  /// Runs a bash script in which the functions of the lab are known.
  ///
  /// - Returns: what it prints.
  /// - Throws: if its status is not 0 or it takes longer than `seconds`.
  @discardableResult
  func shell(_ script: String, within seconds: Double = 120) throws -> String {
    let result = try attempt(script, within: seconds)
    guard result.status == .exited(0) else {
      throw HarnessError("\(script)\n\(result.status): \(result.output)")
    }
    return result.output
  }

  /// As `shell`, with any status.
  func attempt(
    _ script: String, within seconds: Double = 120
  ) throws -> (status: ExitStatus, output: String) {
    let prelude = """
      set -euo pipefail
      . '\(Self.root)/Tests/System/lab/lab.sh'
      netns_use \(name)
      LAB_DIR='\(folder)' BACKEND_DIR='\(folder)' GUEST_DIR='\(folder)'
      export SOCKET='\(socket)'

      """
    scripts += 1
    let log = "\(folder)/shell-\(scripts).log"
    let child = try ChildProcess(["bash", "-c", prelude + script], name: "bash", log: log)
    defer { child.end() }
    return (try child.wait(within: seconds), contents(of: log))
  }

  /// A counter of the interface at `end`: rx_packets, rx_dropped, tx_packets …
  func counter(_ end: End, _ counter: String) throws -> Int {
    let text = try shell("netns_counter \(end.rawValue) \(counter)")
    guard let value = Int(text.filter(\.isNumber)) else {
      throw HarnessError("\(counter) of \(end.interface) is not a number: \(text)")
    }
    return value
  }

  /// Packets that the XDP program on nic0 has seen on a queue.
  func packets(onQueue queue: Int) throws -> Int {
    let statistics = try shell("netns_near ethtool -S nic0")
    let label = "rx_queue_\(queue)_xdp_packets: "
    guard let found = statistics.firstRange(of: label),
      let value = Int(statistics[found.upperBound...].prefix(while: \.isNumber))
    else { throw HarnessError("no \(label) in \(statistics)") }
    return value
  }

  private func remove() {
    for child in processes.reversed() { child.end() }
    // DPDK leaves its runtime folder behind.
    _ = try? attempt("guest_stop; netns_remove \(name); rm -rf '/run/dpdk/\(name)'-*")
    let removal = try? ChildProcess(["rm", "-rf", folder], log: "/dev/null")
    _ = try? removal?.wait()
  }

  /// Ends what a test runner that was killed has left.
  private static let removeLeftovers: Bool = {
    let script = """
      . '\(root)/Tests/System/lab/netns.sh'
      for name in $(ip netns list | sed -En 's/^(sys[0-9]+x[0-9]+)-(near|far).*/\\1/p' | sort -u); do
        pid=${name#sys}; pid=${pid%x*}
        kill -0 "$pid" 2>/dev/null || { netns_remove "$name"; rm -rf "/tmp/vhost-user-xdp-$name"; }
      done
      """
    let child = try? ChildProcess(["bash", "-c", script], name: "bash", log: "/dev/null")
    _ = try? child?.wait(within: 30)
    return true
  }()

  /// The root of the project, from where this file was compiled.
  static let root = #filePath.split(separator: "/").dropLast(4).reduce("") { "\($0)/\($1)" }
}
