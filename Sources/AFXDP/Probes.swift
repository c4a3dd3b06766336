// What driver and kernel do with a frame, as far as it can be told without sending one.
import CLinux
import Glibc
import Linux

/// The name of the driver of an interface (ETHTOOL_GDRVINFO); nil if it does not tell.
public func driverName(of interface: String) -> String? {
  let any = socket(AF_INET, CInt(SOCK_DGRAM.rawValue | SOCK_CLOEXEC.rawValue), 0)
  guard any >= 0 else { return nil }
  defer { close(any) }
  // struct ethtool_drvinfo: cmd, driver[32], … (196 bytes); struct ifreq: name[16], pointer.
  return unsafe withUnsafeTemporaryAllocation(byteCount: 256 + 40, alignment: 8) { memory in
    unsafe memset(memory.baseAddress!, 0, memory.count)
    let information = memory.baseAddress!
    let request = unsafe information + 256
    unsafe information.storeBytes(of: 3, as: UInt32.self)
    for (i, byte) in interface.utf8.prefix(15).enumerated() {
      unsafe request.storeBytes(of: byte, toByteOffset: i, as: UInt8.self)
    }
    unsafe request.storeBytes(of: UInt(bitPattern: information), toByteOffset: 16, as: UInt.self)
    // SIOCETHTOOL
    guard unsafe clinux_ioctl(any, 0x8946, request) == 0 else { return nil }
    let name = unsafe String(cString: (information + 4).assumingMemoryBound(to: CChar.self))
    return name.isEmpty ? nil : name
  }
}

/// Why packets of several frames are not to be had from this kernel; nil if they are.
///
/// bind(2) looks at the flags before it looks for the interface, so a socket that is bound to none
/// tells whether the kernel knows XDP_USE_SG.
/// - Parameter grant: has a socket to ask with.
public func multiBufferRefusal(_ grant: XDPGrant? = nil) -> String? {
  if let answer = grant?.lendSocket(multiBufferRefusal(askedThrough:)) { return answer }
  let unbound = socket(AF_XDP, CInt(SOCK_RAW.rawValue | SOCK_CLOEXEC.rawValue), 0)
  guard unbound >= 0 else { return "no AF_XDP socket to ask the kernel with: \(Errno.current)" }
  defer { close(unbound) }
  return multiBufferRefusal(askedThrough: unbound)
}

private func multiBufferRefusal(askedThrough unbound: CInt) -> String? {
  var address = sockaddr_xdp(
    sxdp_family: UInt16(AF_XDP), sxdp_flags: MappedSocket.multiBufferFlag,
    sxdp_ifindex: UInt32(Int32.max), sxdp_queue_id: 0, sxdp_shared_umem_fd: 0)
  let result = unsafe withUnsafePointer(to: &address) {
    unsafe $0.withMemoryRebound(to: sockaddr.self, capacity: 1) {
      unsafe bind(unbound, $0, socklen_t(MemoryLayout<sockaddr_xdp>.size))
    }
  }
  guard result < 0, errno == ENODEV else {
    return "the kernel has no multi-buffer AF_XDP, which Linux 6.6 and later have"
  }
  return nil
}

/// How a transmitted frame leaves the UMEM.
public enum TransmitPath: String, Sendable {
  /// The NIC reads the UMEM.
  case zeroCopy = "the NIC reads frame memory"
  /// The kernel builds the packet from UMEM pages, with no linear copy (IFF_TX_SKB_NO_LINEAR).
  case pages = "packets are built from frame memory pages, no linear copy"
  /// The kernel copies the frame into a linear packet of its own.
  case linear = "the kernel copies each frame into a linear packet"

  /// - Parameter driver: as `driverName(of:)` gives it.
  init(zeroCopy: Bool, driver: String?) {
    self =
      zeroCopy ? .zeroCopy : driver == TransmitPath.driverWithoutLinearPart ? .pages : .linear
  }

  /// The driver that sets IFF_TX_SKB_NO_LINEAR.  The kernel does not show the flag to user space;
  /// this is the only driver in the tree that sets it.
  static let driverWithoutLinearPart = "virtio_net"
}

/// The largest MTU of a veth's peer with which veth takes a native program without fragments: a
/// page, less headroom, Ethernet header and the kernel's `skb_shared_info`.
let largestPeerMTU = 4096 - FrameGeometry.kernelHeadroom - 14 - 320
