// The same over AF_XDP: requests reach the kernel's packets as they were meant.
//
// No NIC is needed: XDP_UMEM_TX_SW_CSUM has the kernel fill checksums in by what the metadata says; a
// veth whose own checksums are off makes the network stack do it; and one whose are on hands packets to
// the other end with the request still open, where a packet socket shows it.
import AFXDP
import CLinux
import Glibc
import GuestDriver
import HostPort
import Linux
import Testing
import VirtioNet
import Virtqueue

private let all: VirtioFeatures = [
  .version1, .ringIndirectDesc, .csum, .hostTSO4, .hostTSO6, .hostECN, .hostUSO,
]

@discardableResult
private func run(_ command: String) -> Bool {
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

/// A veth pair in a namespace of the calling thread's own, which leaves nothing behind.
private enum Veth {
  static let mtu = 1700

  static let isAvailable: Bool = {
    guard geteuid() == 0 else { return false }
    var worked = false
    try? with { _, far in
      guard let port = try? XDPPort(XDPPortOptions(interface: far, mtu: Veth.mtu)) else { return }
      worked = (try? port.openQueue(0)) != nil
    }
    return worked
  }()

  static func with(_ body: (_ near: XDPInterface, _ far: XDPInterface) throws -> Void) throws {
    let home = OwnedDescriptor(
      adopting: try checkedCall { unsafe open("/proc/thread-self/ns/net", O_RDONLY | O_CLOEXEC) })
    // CLONE_NEWNET
    try checkedCall { unshare(0x4000_0000) }
    defer { setns(home.raw, 0x4000_0000) }
    #expect(run("ip link add csm0 mtu \(mtu) type veth peer name csm1 mtu \(mtu) numtxqueues 1"))
    for name in ["csm0", "csm1"] {
      #expect(run("ip link set \(name) addrgenmode none"))
      #expect(run("ip link set \(name) up"))
    }
    try body(interface("csm0"), interface("csm1"))
  }

  private static func interface(_ name: String) -> XDPInterface {
    XDPInterface(name: name, index: unsafe if_nametoindex(name))
  }

  static func queue(
    _ interface: XDPInterface, _ checksums: ChecksumChoice,
    _ change: (inout XDPPortOptions) -> Void = { _ in }
  ) throws -> any HostPortQueue {
    var options = XDPPortOptions(interface: interface, mtu: mtu)
    options.checksums = checksums
    change(&options)
    return try XDPPort(options).openQueue(0)
  }
}

/// A transmit virtqueue in front of a real port queue, and the other end of the veth.
private struct Wire {
  let ram: GuestRAM
  let driver: any RingDriver
  let near: any HostPortQueue
  let far: any HostPortQueue
  let path: VirtioNet.TransmitPath

  init(_ near: any HostPortQueue, _ far: any HostPortQueue, bytes: Int) throws {
    ram = try GuestRAM(bytes: (8 << 20) + bytes)
    driver = ringDriver(in: ram, size: 256, features: all)
    self.near = near
    self.far = far
    path = try VirtioNet.TransmitPath(
      driver.config(index: 1, memory: try ram.memory()), port: near, counters: RingCounters())
  }

  func offer(_ packet: OffloadPacket) {
    let bytes = packet.header + packet.bytes
    let address = ram.allocate(bytes.count, alignment: 1)
    ram.write(bytes, at: address)
    driver.add([DriverQueue.Buffer(address, UInt32(bytes.count))])
    driver.publish()
  }

  func send() throws {
    while path.run() > 0 { for _ in 0..<1000 where near.flush() { usleep(100) } }
    _ = try driver.allUsed()
  }

  /// Frames at the far end.
  func collect(_ count: Int) -> [[UInt8]] {
    let batch = FrameBatch()
    var frames: [[UInt8]] = []
    var idle = 0
    while frames.count < count, idle < 10_000 {
      far.receive(into: batch)
      if batch.count == 0 {
        usleep(1000)
        idle += 1
        continue
      }
      for i in 0..<batch.count {
        let frame = unsafe batch[i]
        unsafe frames.append(
          Array(UnsafeRawBufferPointer(start: frame.data, count: Int(frame.length))))
      }
      far.recycle(batch)
    }
    return frames
  }
}

@Suite(
  "Checksums by AF_XDP metadata", .serialized,
  .enabled(if: Veth.isAvailable, "needs root, AF_XDP and veth"))
struct ChecksumOverVethTests {
  /// Sends thousands of packets; compares what comes with what the daemon makes by itself.
  private func compare(_ choice: ChecksumChoice, _ near: XDPInterface, _ far: XDPInterface) throws {
    for cut in [false, true] {
      let packets = OffloadPacket.mixture(cut ? 300 : 2400, cut: cut, seed: cut ? 31 : 32)
      let expected = try TransmitFixture.frames(of: packets, seed: 33, fillsChecksums: false).frames
      let wire = try Wire(
        try Veth.queue(near, choice), try Veth.queue(far, .daemon),
        bytes: packets.reduce(0) { $0 + $1.bytes.count + 64 })
      try #require(wire.near.fillsChecksums)
      for (packet, frames) in zip(packets, expected) {
        wire.offer(packet)
        try wire.send()
        let got = wire.collect(frames.count)
        try #require(got.count == frames.count, "\(packet)")
        #expect(zip(got, frames).allSatisfy { packet.same($0, $1) }, "\(packet)")
      }
      let counters = wire.near.statistics.counters
        .filter { !["rx_packets", "tx_packets"].contains($0.name) }
      #expect(counters.allSatisfy { $0.value == 0 }, "\(counters)")
      // Frames come back by their addresses, which begin behind the metadata.
      let all = FrameBatch(capacity: 2048)
      wire.near.reserve(2048, into: all)
      #expect(all.count >= 1024)
      wire.near.transmit(all, count: 0)
    }
  }

  @Test("what the kernel fills in by the metadata is what the daemon fills in")
  func kernel() throws {
    try Veth.with { near, far in
      #expect(try Veth.queue(near, .kernel).mode.contains("checksums: the kernel, in software"))
      try compare(.kernel, near, far)
    }
  }

  @Test("what the network stack fills in for an interface that does not is the same")
  func stack() throws {
    try Veth.with { near, far in
      #expect(run("ethtool -K csm0 tx off"))
      try compare(.unchecked, near, far)
    }
  }

  @Test("a request arrives with the guest's two fields, and the packet as it was")
  func open() throws {
    try Veth.with { near, far in
      let sniffer = try OpenChecksums(far)
      let packets = OffloadPacket.mixture(600, cut: false, seed: 34).filter {
        // A packet socket takes tags out.
        $0.isUsual && ($0.checksumStart == 34 || $0.checksumStart == 54)
      }
      #expect(packets.count > 30)
      // The far end has no program, which would take the packets before the socket does.
      let queue = try Veth.queue(near, .unchecked)
      let wire = try Wire(queue, queue, bytes: 1 << 20)
      for packet in packets {
        wire.offer(packet)
        try wire.send()
        let found = sniffer.next()
        let (header, bytes) = try #require(found)
        #expect(bytes == packet.bytes)
        // flags NEEDS_CSUM, csum_start, csum_offset.
        #expect(header[0] & 1 == 1)
        #expect(Array(header[6..<10]) == Array(packet.header[6..<10]))
      }
    }
  }

  @Test("a veth is never trusted with checksums by default, and the mode says who fills them in")
  func byDefault() throws {
    try Veth.with { near, _ in
      for (copyMode, reason) in [
        (.auto, "driver veth fills in none of AF_XDP's"), (.copy, "the NIC's are for zero-copy"),
      ] as [(CopyModeChoice, String)] {
        let queue = try Veth.queue(near, .auto) { $0.copyMode = copyMode }
        #expect(!queue.fillsChecksums)
        #expect(queue.mode.contains("; checksums: the daemon (\(reason))"), "\(queue.mode)")
      }
      let queue = try Veth.queue(near, .daemon)
      #expect(!queue.fillsChecksums && queue.mode.contains("(--disable-offload=hwcsum)"))
    }
  }

  @Test("the kernel tells what a veth's driver fills in: nothing")
  func probe() throws {
    try Veth.with { near, _ in
      let features = try DriverFeatures.read(interfaceIndex: Int(near.index))
      #expect(features?.transmitMetadata?.contains(.checksum) != true)
      #expect(Interface.driverFlag("xdp_tx_mpwqe", of: near.name) == nil)
      #expect(Interface.driverFlag("xdp_tx_mpwqe", of: "csm9") == nil)
    }
  }
}

/// A packet socket that shows what a packet's checksum wants (PACKET_VNET_HDR).
private struct OpenChecksums: ~Copyable {
  private let socket: OwnedDescriptor

  init(_ interface: XDPInterface) throws {
    let opened = OwnedDescriptor(
      adopting: try checkedCall {
        Glibc.socket(AF_PACKET, CInt(SOCK_RAW.rawValue | SOCK_CLOEXEC.rawValue), 0)
      })
    var on: CInt = 1
    // SOL_PACKET, PACKET_VNET_HDR
    try checkedCall { unsafe setsockopt(opened.raw, 263, 15, &on, 4) }
    var address = sockaddr_ll()
    address.sll_family = UInt16(AF_PACKET)
    // ETH_P_ALL
    address.sll_protocol = UInt16(3).bigEndian
    address.sll_ifindex = CInt(interface.index)
    try checkedCall {
      unsafe withUnsafePointer(to: &address) {
        unsafe $0.withMemoryRebound(to: sockaddr.self, capacity: 1) {
          unsafe bind(opened.raw, $0, socklen_t(MemoryLayout<sockaddr_ll>.size))
        }
      }
    }
    socket = opened
  }

  /// The next packet behind its virtio_net_hdr; nil: none within ten seconds.
  func next() -> (header: [UInt8], bytes: [UInt8])? {
    guard waitFor(Int16(POLLIN), of: socket.raw, milliseconds: 10_000) != 0 else { return nil }
    var bytes = [UInt8](repeating: 0, count: 4096)
    let count = unsafe recv(socket.raw, &bytes, bytes.count, 0)
    guard count >= 10 else { return nil }
    return (Array(bytes[..<10]), Array(bytes[10..<count]))
  }
}
