// What a transmitted frame may ask of the device: `struct xsk_tx_metadata`, which lies in front of the
// frame's first byte (Linux 6.8; Documentation/networking/xsk-tx-metadata.rst).  Only one request is
// made here: to fill in a checksum.
//
//   bytes from the frame    -24              -16           -14            -12
//                           │ flags (2) u64  │ csum_start  │ csum_offset  │ unused │ frame …
//
// The kernel looks there only if the frame's descriptor has XDP_TX_METADATA.  Once a UMEM is registered
// with a metadata length, every descriptor needs that room in its chunk, with or without a request.
import Linux

public enum TransmitMetadata {
  /// Bytes in front of a frame, with the launch time that Linux 6.14 appended.
  public static var length: Int { @inlinable @inline(__always) get { 24 } }
  /// Where transmitted frames begin in their chunks: a cache line of their own.  There is room: a
  /// chunk is `FrameGeometry.kernelHeadroom` larger than its frame.
  static let frameOffset = 64

  // XDP_UMEM_…
  static let checksumByKernelFlag: UInt32 = 1 << 1
  static let lengthFlag: UInt32 = 1 << 2

  /// XDP_TXMD_FLAGS_CHECKSUM
  @usableFromInline static var checksumFlag: UInt64 { @inlinable get { 1 << 1 } }

  /// Asks for the checksum over everything from byte `start` on, stored `offset` bytes behind that,
  /// where the frame holds the sum of the pseudo-header.
  /// - Parameter frame: first byte of a frame with `length` bytes of room in front.
  @unsafe @inlinable @inline(__always)
  public static func requestChecksum(
    from start: UInt16, at offset: UInt16, of frame: UnsafeMutableRawPointer
  ) {
    let metadata = unsafe frame - length
    unsafe metadata.storeBytes(of: checksumFlag, as: UInt64.self)
    unsafe metadata.storeBytes(of: start, toByteOffset: 8, as: UInt16.self)
    unsafe metadata.storeBytes(of: offset, toByteOffset: 10, as: UInt16.self)
  }

  /// What `requestChecksum` has asked for.
  @unsafe
  public static func requestedChecksum(
    of frame: UnsafeMutableRawPointer
  ) -> (start: UInt16, offset: UInt16) {
    let metadata = unsafe frame - length
    return unsafe (
      metadata.load(fromByteOffset: 8, as: UInt16.self),
      metadata.load(fromByteOffset: 10, as: UInt16.self)
    )
  }
}

/// Who shall fill in the checksums that transmitted frames leave open.
public enum ChecksumChoice: Sendable {
  /// The NIC, where it says that it does.
  case auto
  /// Nobody but us.
  case daemon
  /// The kernel, in software (XDP_UMEM_TX_SW_CSUM), in copy mode: shows that requests arrive as they
  /// were meant.
  case kernel
  /// Whoever comes behind the socket, without looking whether anybody does.
  case unchecked
}

/// Who does fill them in.
public enum ChecksumFiller: Equatable, Sendable {
  case nic
  case kernel
  case unchecked
  case daemon(because: String)

  /// For the start-up line.
  public var text: String {
    switch self {
    case .nic: "the NIC"
    case .kernel: "the kernel, in software"
    case .unchecked: "whoever comes next, unchecked"
    case .daemon(let reason): "the daemon (\(reason))"
    }
  }
}

/// What decides about it, as far as it is known before a socket is bound.
struct ChecksumProbe {
  var choice: ChecksumChoice
  var interface: String
  var mode: XDPMode
  var copyMode: CopyModeChoice
  var driver: String?
  /// What the driver says; nil: the kernel does not tell.
  var features: DriverFeatures?
  /// Packets share work requests: see `refusal`.
  var sharesRequests = false

  /// Asks the kernel.
  init(
    _ choice: ChecksumChoice, _ interface: XDPInterface, mode: XDPMode, copyMode: CopyModeChoice
  ) {
    self.choice = choice
    self.interface = interface.name
    self.mode = mode
    self.copyMode = copyMode
    guard choice == .auto, ChecksumProbe.copies(mode, copyMode) == nil else { return }
    driver = driverName(of: interface.name)
    features = (try? DriverFeatures.read(interfaceIndex: Int(interface.index))) ?? nil
    if driver == ChecksumProbe.driverWithSharedRequests {
      sharesRequests =
        Interface.driverFlag(ChecksumProbe.sharedRequestsFlag, of: interface.name) ?? true
    }
  }

  init(
    _ choice: ChecksumChoice = .auto, interface: String = "eth1", mode: XDPMode = .native,
    copyMode: CopyModeChoice = .auto, driver: String?, features: DriverFeatures?,
    sharesRequests: Bool = false
  ) {
    self.choice = choice
    self.interface = interface
    self.mode = mode
    self.copyMode = copyMode
    self.driver = driver
    self.features = features
    self.sharesRequests = sharesRequests
  }

  /// This driver puts several packets into one work request, with the offloads that the first of them
  /// asks for.  A packet behind one that asks for nothing would leave with its checksum open.
  private static let driverWithSharedRequests = "mlx5_core"
  private static let sharedRequestsFlag = "xdp_tx_mpwqe"

  /// Why nobody but us can fill checksums in; nil: the UMEM is to be registered with metadata.
  var refusal: String? {
    switch choice {
    case .daemon: return "--disable-offload=hwcsum"
    case .kernel, .unchecked: return nil
    case .auto: break
    }
    if let reason = ChecksumProbe.copies(mode, copyMode) { return reason }
    let name = driver.map { "driver \($0)" } ?? "the driver"
    guard let features = features?.transmitMetadata else {
      return "the kernel does not say what \(name) can; Linux 6.8 and newer do"
    }
    guard features.contains(.checksum) else { return "\(name) fills in none of AF_XDP's" }
    guard !sharesRequests else {
      return "\(name) lets one packet decide for several; "
        + "`ethtool --set-priv-flags \(interface) \(ChecksumProbe.sharedRequestsFlag) off` ends that"
    }
    return nil
  }

  /// Nil unless it is known that there will be no zero-copy.
  private static func copies(_ mode: XDPMode, _ copyMode: CopyModeChoice) -> String? {
    mode == .skb || copyMode == .copy ? copyReason : nil
  }

  /// In copy mode the kernel makes an skb that does not say where its network header is, nor which
  /// protocol it is.  Some drivers of NICs that fill in checksums look there, and no probe tells which;
  /// that of virtio_net loses the request (6.12), and veth hands the packet on as it is.
  static let copyReason = "the NIC's are for zero-copy"
  static let registrationReason = "the kernel takes no transmit metadata; Linux 6.11 and newer do"

  /// Registers `memory`, with metadata where that may be of use.
  /// - Returns: why without; nil: with.
  func register(
    _ memory: borrowing FrameMemory, with socket: borrowing MappedSocket, for place: String
  ) throws(XDPSocketError) -> String? {
    var reason = refusal
    if reason == nil {
      if try memory.register(
        with: socket, for: place, metadata: true, checksumByKernel: choice == .kernel)
      {
        return nil
      }
      reason = ChecksumProbe.registrationReason
    }
    _ = try memory.register(with: socket, for: place)
    return reason
  }

  /// Who fills checksums in, in the end.
  /// - Parameter refusal: what `register` returned.
  func filler(refusal: String?, zeroCopy: Bool) -> ChecksumFiller {
    if let refusal { return .daemon(because: refusal) }
    switch choice {
    case .unchecked: return .unchecked
    case .kernel where !zeroCopy: return .kernel
    case .auto where zeroCopy: return .nic
    default: return .daemon(because: ChecksumProbe.copyReason)
    }
  }
}
