// A network namespace of the calling thread's own, with a veth pair in it.  It has no name and
// leaves nothing behind: it goes when the thread has left it and its sockets are closed.
import AFXDP
import CLinux
import Glibc
import Linux
import Testing

@testable import HostPort

/// Runs a command in the calling thread's namespace.
@discardableResult
func run(_ command: String) -> Bool {
  let words = command.split(separator: " ").map(String.init)
  let arguments: [UnsafeMutablePointer<CChar>?] = unsafe words.map { unsafe strdup($0) } + [nil]
  defer { unsafe arguments.forEach { unsafe free($0) } }
  var pid = pid_t()
  guard unsafe posix_spawnp(&pid, words[0], nil, nil, arguments, environ) == 0 else {
    return false
  }
  var status: CInt = 0
  while unsafe waitpid(pid, &status, 0) < 0, errno == EINTR {}
  return status == 0
}

/// The tests that need interfaces, one after the other: some count what the process holds.
@Suite(
  .serialized,
  .enabled(if: PrivateNetwork.obstacle == nil, "\(PrivateNetwork.obstacle ?? "")"))
enum OnInterfaces {}

private let CLONE_NEWNET: CInt = 0x4000_0000

enum PrivateNetwork {
  /// Why the tests with interfaces cannot run here; nil if they can.
  static let obstacle: String? = {
    guard geteuid() == 0 else { return "needs root, for namespaces and XDP" }
    let socket = socket(CInt(AF_XDP), CInt(SOCK_RAW.rawValue | SOCK_CLOEXEC.rawValue), 0)
    guard socket >= 0 else { return "the kernel has no AF_XDP: \(Errno.current)" }
    close(socket)
    var worked = false
    do {
      try enter { worked = run("ip link add axt0 type veth peer name axt1") }
    } catch {
      return "no network namespace can be made: \(error)"
    }
    return worked ? nil : "no veth pair can be made (is iproute2 installed?)"
  }()

  /// Runs `body` in a new namespace; the calling thread returns to its own afterwards.
  static func enter(_ body: () throws -> Void) throws {
    let home = OwnedDescriptor(
      adopting: try checkedCall { unsafe open("/proc/thread-self/ns/net", O_RDONLY | O_CLOEXEC) })
    try checkedCall { unshare(CLONE_NEWNET) }
    defer { setns(home.raw, CLONE_NEWNET) }
    try body()
  }

  /// Runs `body` in a new namespace with the veth pair axt0, axt1, both up and silent, on one CPU: a
  /// packet from another one may have to wait.
  static func withVeth(
    mtu: Int = 1500, _ body: (_ a: XDPInterface, _ b: XDPInterface) throws -> Void
  ) throws {
    try enter {
      #expect(
        run("ip link add axt0 mtu \(mtu) type veth peer name axt1 mtu \(mtu) numtxqueues 1"))
      for name in ["axt0", "axt1"] {
        // No addresses, so no neighbour discovery between the frames of the test.
        #expect(run("ip link set \(name) addrgenmode none"))
        #expect(run("ip link set \(name) up"))
      }
      let allowed = try pinToOneCPU()
      defer { setAllowedCPUs(allowed) }
      try body(interface("axt0"), interface("axt1"))
    }
  }

  static func interface(_ name: String) -> XDPInterface {
    XDPInterface(name: name, index: unsafe if_nametoindex(name))
  }
}

/// Keeps the calling thread on one of its CPUs; returns the set of those that it had.
private func pinToOneCPU() throws -> [UInt64] {
  var allowed = [UInt64](repeating: 0, count: 16)
  try checkedCall { unsafe sched_getaffinity(0, 128, &allowed) }
  #expect(clinux_pin_thread(PinnedThread.currentCPU) == 0)
  return allowed
}

private func setAllowedCPUs(_ cpus: [UInt64]) {
  #expect(unsafe sched_setaffinity(0, 128, cpus) == 0)
}

@_silgen_name("sched_getaffinity")
private func sched_getaffinity(
  _ pid: pid_t, _ size: Int, _ set: UnsafeMutablePointer<UInt64>
) -> CInt

@_silgen_name("sched_setaffinity")
private func sched_setaffinity(_ pid: pid_t, _ size: Int, _ set: UnsafePointer<UInt64>) -> CInt

func options(
  _ interface: XDPInterface, mode: XDPModeChoice = .auto, mtu: Int = 1500
) -> XDPPortOptions {
  var options = XDPPortOptions(interface: interface, mtu: mtu)
  options.xdpMode = mode
  return options
}
