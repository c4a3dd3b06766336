// What an interface is capable of, as far as it can be asked without touching it: no program is
// attached, no socket is bound, no queue is taken.  What cannot be asked is `unknown`, with the
// reason; nothing is guessed from names, but for the one flag that the kernel shows to nobody.
import CLinux
import Glibc
public import Linux

/// One capability, with how it is known.
public struct Finding: Equatable, Sendable {
  public enum State: String, Sendable {
    case supported, unsupported, unknown
  }

  public enum Value: Equatable, Sendable {
    case number(Int)
    case text(String)
  }

  /// What was read beside the state.
  public struct Detail: Equatable, Sendable {
    public let name: String
    public let value: Value
  }

  /// In lower case, with hyphens.
  public let name: String
  public let state: State
  /// In a sentence's form, without full stop.
  public let reason: String
  /// What was asked.
  public let probe: String
  public var details: [Detail] = []

  init(_ name: String, _ state: State, _ reason: String, probe: String) {
    self.name = name
    self.state = state
    self.reason = reason
    self.probe = probe
  }

  func with(_ name: String, _ value: Value) -> Finding {
    var finding = self
    finding.details.append(Detail(name: name, value: value))
    return finding
  }
}

/// The answers about one interface, and what follows from them.
public struct InterfaceProbes: Sendable {
  /// What the driver says by the netdev netlink family.
  enum DriverAnswer: Equatable {
    case features(DriverFeatures)
    /// The kernel is older than the family.
    case noFamily
    case failed(Errno)
  }

  let interface: Interface
  let driver: DriverAnswer
  /// Why no AF_XDP socket can be made; nil: one was made, and closed.
  let socketFailure: Errno?
  /// Why the kernel does not let a packet lie in several frames; nil: it does.
  let multiBufferFailure: String?
  let kernel: KernelRelease

  /// Asks the kernel.
  public init(_ interface: Interface) {
    self.interface = interface
    do throws(Errno) {
      let features = try DriverFeatures.read(interfaceIndex: interface.index)
      driver = features.map(DriverAnswer.features) ?? .noFamily
    } catch {
      driver = .failed(error)
    }
    let type = CInt(SOCK_RAW.rawValue) | CInt(SOCK_CLOEXEC.rawValue)
    do throws(Errno) {
      _ = OwnedDescriptor(adopting: try checkedCall { socket(CInt(AF_XDP), type, 0) })
      socketFailure = nil
    } catch {
      socketFailure = error
    }
    multiBufferFailure = multiBufferRefusal()
    kernel = .running
  }

  /// Answers that were made up.
  init(
    interface: Interface, driver: DriverAnswer, socketFailure: Errno?,
    multiBufferFailure: String?, kernel: KernelRelease
  ) {
    self.interface = interface
    self.driver = driver
    self.socketFailure = socketFailure
    self.multiBufferFailure = multiBufferFailure
    self.kernel = kernel
  }

  private var driverName: String {
    interface.driver.isEmpty ? "the driver" : "the driver \(interface.driver)"
  }
}

/// What the interface is.
extension InterfaceProbes {
  public var identity: [Finding] { [driverFinding, bus, numaNode, queues, mtu] }

  private var driverFinding: Finding {
    let probe = "ETHTOOL_GDRVINFO"
    guard !interface.driver.isEmpty else {
      return Finding("driver", .unknown, "the interface names no driver", probe: probe)
    }
    return Finding("driver", .supported, "the interface names its driver", probe: probe)
      .with("value", .text(interface.driver))
  }

  private var bus: Finding {
    let probe = "ETHTOOL_GDRVINFO"
    guard !interface.bus.isEmpty else {
      return Finding("bus", .unknown, "\(driverName) names no device on a bus", probe: probe)
    }
    return Finding("bus", .supported, "\(driverName) names its device", probe: probe)
      .with("value", .text(interface.bus))
  }

  private var numaNode: Finding {
    let probe = "numa_node of the PCI device"
    guard let node = interface.numaNode else {
      return Finding(
        "numa-node", .unknown,
        interface.bus.isEmpty
          ? "there is no device behind the interface"
          : "no node is known of \(interface.bus); a machine with one node has no need to tell",
        probe: probe)
    }
    return Finding("numa-node", .supported, "\(interface.bus) is on this node", probe: probe)
      .with("value", .number(node))
  }

  private var queues: Finding {
    let queues = interface.receiveQueues
    var finding = Finding(
      "queues", .supported, "each queue in use can serve a queue pair",
      probe: queues.channelKind == nil ? "IFLA_NUM_RX_QUEUES" : "ETHTOOL_GCHANNELS"
    ).with("in-use", .number(queues.count))
    if let most = queues.most { finding = finding.with("most", .number(most)) }
    if let hashed = queues.hashed {
      finding = finding.with("in-hash-table", .number(hashed.count))
    }
    return finding
  }

  private var mtu: Finding {
    let (state, reason): (Finding.State, String) =
      if interface.mtu <= FrameGeometry.largestMTU {
        (.supported, "a packet fits one frame")
      } else if interface.mtu > FrameGeometry.largestMultiBufferMTU {
        (.unsupported, "the largest MTU is \(FrameGeometry.largestMultiBufferMTU)")
      } else if let multiBufferFailure {
        (
          socketFailure == nil ? .unsupported : .unknown,
          "a packet beyond MTU \(FrameGeometry.largestMTU) needs several frames: "
            + multiBufferFailure
        )
      } else {
        (.supported, "a packet may lie in several frames")
      }
    return Finding("mtu", state, reason, probe: "IFLA_MTU")
      .with("value", .number(interface.mtu))
  }
}

/// What AF_XDP can do with it.
extension InterfaceProbes {
  public var abilities: [Finding] { [sockets, nativeXDP, zeroCopy, multiBuffer, noLinear] }

  public var transmitMetadata: [Finding] {
    [
      metadata("checksum", .checksum, "fills in checksums as a frame's metadata asks"),
      metadata("timestamp", .timestamp, "says when a frame was sent"),
    ]
  }

  private var sockets: Finding {
    let probe = "socket(AF_XDP)"
    switch socketFailure {
    case nil: return Finding("af-xdp", .supported, "a socket was made, and closed", probe: probe)
    case Errno(EPERM)?:
      return Finding("af-xdp", .unknown, "making a socket needs CAP_NET_RAW", probe: probe)
    case Errno(EAFNOSUPPORT)?:
      return Finding(
        "af-xdp", .unsupported, "the kernel is built without CONFIG_XDP_SOCKETS", probe: probe)
    case let failure?:
      return Finding("af-xdp", .unknown, "no socket can be made: \(failure)", probe: probe)
    }
  }

  /// What the driver says, or why it is not known.
  private func ask(
    _ name: String, _ attribute: String, _ state: (DriverFeatures) -> (Finding.State, String)
  ) -> Finding {
    let probe = "netdev netlink family, \(attribute)"
    switch driver {
    case .features(let features):
      let (state, reason) = state(features)
      return Finding(name, state, reason, probe: probe)
    case .noFamily:
      return Finding(
        name, .unknown,
        "the kernel (\(kernel)) has no such family, which came with Linux 6.3", probe: probe)
    case .failed(let failure):
      return Finding(name, .unknown, "the kernel does not answer: \(failure)", probe: probe)
    }
  }

  private var nativeXDP: Finding {
    ask("native-xdp", "xdp-features") { features in
      if features.xdp.isSuperset(of: [.basic, .redirect]) {
        return (.supported, "\(driverName) runs XDP programs and redirects")
      }
      return features.xdp.contains(.basic)
        ? (.unsupported, "\(driverName) runs XDP programs, but does not redirect to sockets")
        : (.unsupported, "\(driverName), as configured, runs no XDP program; skb mode is left")
    }
  }

  private var zeroCopy: Finding {
    ask("zero-copy", "xdp-features") { features in
      features.xdp.contains(.zeroCopy)
        ? (.supported, "\(driverName) works on frame memory itself")
        : (.unsupported, "\(driverName), as configured, has no zero-copy; frames are copied")
    }
  }

  /// Of the driver and, where it could be asked, of the kernel.
  private var multiBuffer: Finding {
    if let multiBufferFailure, socketFailure == nil {
      return Finding(
        "multi-buffer", .unsupported, multiBufferFailure, probe: "bind(2) with XDP_USE_SG")
    }
    var segments: Int?
    let finding = ask("multi-buffer", "xdp-features and xdp-zc-max-segs") { features in
      segments = features.zeroCopySegments
      return features.xdp.contains(.fragments)
        ? (.supported, "\(driverName) gives XDP programs packets of several fragments")
        : (.unsupported, "\(driverName), as configured, gives XDP programs one fragment a packet")
    }
    return segments.map { finding.with("zero-copy-segments", .number($0)) } ?? finding
  }

  private func metadata(
    _ name: String, _ flag: DriverFeatures.TransmitMetadata, _ effect: String
  ) -> Finding {
    ask(name, "xsk-features") { features in
      guard let flags = features.transmitMetadata else {
        return (.unknown, "the kernel (\(kernel)) does not tell; Linux 6.8 and newer do")
      }
      return flags.contains(flag)
        ? (.supported, "\(driverName) \(effect)")
        : (.unsupported, "\(driverName) has no such metadata of AF_XDP")
    }
  }

  /// IFF_TX_SKB_NO_LINEAR: whether a packet that the kernel makes of a frame may point to frame
  /// memory, with no linear part.  The flag is not shown to user space.
  private var noLinear: Finding {
    let (name, probe) = ("no-linear-tx", "the driver's name")
    guard interface.driver == TransmitPath.driverWithoutLinearPart else {
      return Finding(
        name, .unknown,
        "the kernel does not show IFF_TX_SKB_NO_LINEAR, and \(TransmitPath.driverWithoutLinearPart) "
          + "is the only driver that is known to set it", probe: probe)
    }
    let since = KernelRelease(5, 12)
    return kernel < since
      ? Finding(
        name, .unsupported, "\(driverName) sets IFF_TX_SKB_NO_LINEAR since Linux \(since)",
        probe: probe)
      : Finding(
        name, .supported,
        "\(driverName) sets IFF_TX_SKB_NO_LINEAR, so packets point to frame memory", probe: probe)
  }
}
