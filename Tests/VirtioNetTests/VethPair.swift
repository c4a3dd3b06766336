// A network namespace of the calling thread's own with a veth pair in it: the data path on one end,
// what arrives at the other.
import AFXDP
import CLinux
import Glibc
import HostPort
import Linux
import Testing

struct VethPair {
  static let isAvailable = geteuid() == 0

  /// The interface that a port of the test is on, with a bulk lane if that is asked for.
  let near: XDPPortOptions
  let far: XDPInterface

  /// Runs a command in the calling thread's namespace.
  static func run(_ command: String) throws {
    let words = command.split(separator: " ").map(String.init)
    let arguments: [UnsafeMutablePointer<CChar>?] = unsafe words.map { unsafe strdup($0) } + [nil]
    defer { unsafe arguments.forEach { unsafe free($0) } }
    var pid = pid_t()
    try #require(
      unsafe posix_spawnp(&pid, words[0], nil, nil, arguments, environ) == 0, "\(command)")
    var status: CInt = 0
    while unsafe waitpid(pid, &status, 0) < 0, errno == EINTR {}
    try #require(status == 0, "\(command)")
  }

  /// Runs `body` with the pair blk0, blk1; the thread returns to its own namespace afterwards.
  /// - Parameters:
  ///   - segmentsTCP: what is told of the near end.
  ///   - commands: run before the ports are made.
  static func with(
    mtu: Int = 1800, segmentsTCP: Bool = false, _ commands: String...,
    body: (VethPair) throws -> Void
  ) throws {
    let home = OwnedDescriptor(
      adopting: try checkedCall { unsafe open("/proc/thread-self/ns/net", O_RDONLY | O_CLOEXEC) })
    try checkedCall { unshare(0x4000_0000) }
    defer { setns(home.raw, 0x4000_0000) }
    try run("ip link add blk0 mtu \(mtu) type veth peer name blk1 mtu \(mtu)")
    for name in ["blk0", "blk1"] {
      try run("ip link set \(name) addrgenmode none")
      try run("ip link set \(name) up")
    }
    for command in commands { try run(command) }
    var options = XDPPortOptions(
      interface: XDPInterface(name: "blk0", index: unsafe if_nametoindex("blk0")), mtu: mtu)
    options.bulkLane = .packet
    options.segmentsTCP = segmentsTCP
    try body(
      VethPair(
        near: options, far: XDPInterface(name: "blk1", index: unsafe if_nametoindex("blk1"))))
  }

  /// Receives what arrives at the far end, as frames of the wire, with their tags.
  func farQueue() throws -> any HostPortQueue {
    try XDPPort(XDPPortOptions(interface: far, mtu: near.mtu)).openQueue(0)
  }
}

extension HostPortQueue {
  /// Appends what has arrived to `frames`; returns whether anything had.
  func take(into frames: inout [[UInt8]]) -> Bool {
    let batch = FrameBatch()
    receive(into: batch)
    for i in 0..<batch.count {
      let frame = unsafe batch[i]
      unsafe frames.append(
        Array(UnsafeRawBufferPointer(start: frame.data, count: Int(frame.length))))
    }
    defer { recycle(batch) }
    return batch.count > 0
  }

  func counter(_ name: String) -> Int? {
    statistics.counters.first { $0.name == name }.map { Int($0.value) }
  }
}
