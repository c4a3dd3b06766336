// Attaching, by the ladder native, skb; and what is attached already.
import CBPF
import CLinux
import Glibc
import Linux

/// An attached program.  The kernel detaches it when the descriptor is closed.
struct ProgramLink: ~Copyable, Sendable {
  let mode: XDPMode
  let skbReason: String?
  private let descriptor: OwnedDescriptor

  init(
    program: CInt, interface: XDPInterface, choice: XDPModeChoice
  ) throws(XDPProgramError) {
    let got = try ProgramLink.climb(program, interface, choice)
    descriptor = OwnedDescriptor(adopting: got.descriptor)
    mode = got.mode
    skbReason = got.skbReason
  }

  private static func climb(
    _ program: CInt, _ interface: XDPInterface, _ choice: XDPModeChoice
  ) throws(XDPProgramError) -> (descriptor: CInt, mode: XDPMode, skbReason: String?) {
    var reason: String?
    if choice != .skb {
      let result = attach(program, interface, UInt32(XDP_FLAGS_DRV_MODE))
      if result >= 0 { return (result, .native, nil) }
      let error = Errno(-result)
      if let present = present(interface, error) { throw present.refusal(on: interface) }
      let refusal = nativeRefusal(interface, error)
      if choice == .native {
        throw XDPProgramError(
          "no native XDP on \(interface.name): \(refusal); --xdp-mode=auto takes skb mode instead")
      }
      reason = refusal
    }
    let result = attach(program, interface, UInt32(XDP_FLAGS_SKB_MODE))
    guard result >= 0 else {
      let error = Errno(-result)
      if let present = present(interface, error) { throw present.refusal(on: interface) }
      throw XDPProgramError("cannot attach the XDP program to \(interface.name): \(error)")
    }
    return (result, .skb, reason)
  }

  /// A descriptor, or -errno.
  private static func attach(_ program: CInt, _ interface: XDPInterface, _ flags: UInt32) -> CInt {
    var options = unsafe bpf_link_create_opts()
    unsafe options.sz = MemoryLayout<bpf_link_create_opts>.size
    unsafe options.flags = flags
    return unsafe bpf_link_create(program, CInt(interface.index), BPF_XDP, &options)
  }

  /// The program that is in the way, if `error` is what the kernel says then.
  private static func present(_ interface: XDPInterface, _ error: Errno) -> AttachedProgram? {
    error.code == EBUSY || error.code == EEXIST ? AttachedProgram(on: interface) : nil
  }

  /// Why the driver refused; the kernel itself hands bpf_link users nothing but a number.
  private static func nativeRefusal(_ interface: XDPInterface, _ error: Errno) -> String {
    let driver = driverName(of: interface.name)
    let refusal = "driver \(driver ?? "unknown") says \(error)"
    switch (driver, error.code) {
    case (_, EOPNOTSUPP):
      return refusal + ": it has no native XDP, or not with the present offloads and queues"
    case ("veth", ERANGE):
      return refusal + ": the peer's MTU is too large, at most \(largestPeerMTU) works "
        + "(`ip link set PEER mtu \(largestPeerMTU)`)"
    case ("veth", ENOSPC):
      return refusal + ": it has fewer receive queues than the peer has transmit queues "
        + "(`ethtool -L \(interface.name) rx N`, or `ethtool -L PEER tx N`)"
    case (_, ERANGE), (_, EINVAL):
      return refusal + ": the MTU may be too large for one page (`ip link show \(interface.name)`)"
    case (_, ENOMEM), (_, ENOSPC):
      return refusal + ": too few hardware queues, perhaps (`ethtool -l \(interface.name)`)"
    default:
      return refusal
    }
  }
}

/// A program that is attached to an interface, whoever did it.
struct AttachedProgram {
  /// The function's name in steer.bpf.c.
  static let ownName = "vhost_user_xdp"

  let id: UInt32
  /// At most 15 characters; empty if the kernel does not tell.
  let name: String
  let mode: String

  /// nil if no program is attached in any mode (or the kernel does not tell: then attaching will).
  init?(on interface: XDPInterface) {
    var found = bpf_xdp_query_opts()
    // Up to the last field: libbpf wants the padding behind it to be zero, and Swift does not set
    // padding.
    found.sz = MemoryLayout<bpf_xdp_query_opts>.offset(of: \.attach_mode)! + 1
    guard unsafe bpf_xdp_query(CInt(interface.index), 0, &found) == 0 else { return nil }
    let candidates = [
      (found.hw_prog_id, "offloaded"), (found.drv_prog_id, "native"), (found.skb_prog_id, "skb"),
      (found.prog_id, "one"),
    ]
    guard let (id, mode) = candidates.first(where: { $0.0 != 0 }) else { return nil }
    (self.id, self.mode) = (id, mode)
    name = AttachedProgram.name(of: id)
  }

  var isOurs: Bool { name == AttachedProgram.ownName }

  func refusal(on interface: XDPInterface) -> XDPProgramError {
    let holder = programHolder(id: id)
    if isOurs {
      return XDPProgramError(
        "\(interface.name) is served by \(holder ?? "another vhost-user-xdp") already "
          + "(XDP program id \(id)): one daemon owns one interface, stop it or choose another")
    }
    let remedy =
      if let holder {
        "held by \(holder): stop it"
      } else {
        "`ip link set dev \(interface.name) \(mode == "skb" ? "xdpgeneric" : "xdp") off` removes it"
      }
    return XDPProgramError(
      "\(interface.name) has the XDP program '\(name)' (id \(id), \(mode)) of somebody else, "
        + "which is left alone; \(remedy), or choose another interface")
  }

  /// The kernel's number of a loaded program; nil if it does not tell.
  static func id(of program: CInt) -> UInt32? { information(on: program)?.id }

  private static func information(on program: CInt) -> bpf_prog_info? {
    var information = bpf_prog_info()
    var length = UInt32(MemoryLayout<bpf_prog_info>.size)
    return unsafe bpf_obj_get_info_by_fd(program, &information, &length) == 0 ? information : nil
  }

  private static func name(of id: UInt32) -> String {
    let raw = bpf_prog_get_fd_by_id(id)
    guard raw >= 0 else { return "" }
    let program = OwnedDescriptor(adopting: raw)
    guard var information = information(on: program.raw) else { return "" }
    return unsafe withUnsafePointer(to: &information.name) {
      unsafe $0.withMemoryRebound(to: CChar.self, capacity: 16) { unsafe String(cString: $0) }
    }
  }
}
