// One AF_XDP socket on one queue of an interface, with a UMEM and four rings of its own.
//
// The order of the set-up is the kernel's: UMEM, ring sizes, mappings, then a filled fill ring, so
// that the first packet finds a frame, then bind.  Bind decides between zero-copy and copy; what
// was really got is asked for afterwards.
//
// A queue stays taken for 10 to 35 ms after its owner was killed: the kernel frees the buffer pool after a
// grace period of RCU, from a work queue, under the lock of all interfaces.  Beside busy loops a grace
// period took as long as seven seconds, so EBUSY is tried again for a while, slowly: each try allocates a
// whole pool.
import CLinux
import Glibc
public import Linux
public import SharedRing

/// Why a socket cannot be had: one line that names interface, queue and remedy.
public struct XDPSocketError: Error, Equatable, Sendable, CustomStringConvertible {
  public let description: String
  public let cause: Errno

  init(_ description: String, _ cause: Errno) {
    self.description = description
    self.cause = cause
  }
}

/// The hot state of a queue: its rings and its free frames.
public struct XDPRings: ~Copyable {
  public var fill: ProducerRing
  public var receive: ConsumerRing
  public var transmit: ProducerRing
  public var completion: ConsumerRing
  /// Frames that are neither in a ring nor handed out.
  public var receiveFrames: FrameStack
  public var transmitFrames: FrameStack
  public let layout: FrameLayout
}

/// The kernel's own counters of a socket (XDP_STATISTICS), in packets.
public struct XDPSocketStatistics: Equatable, Sendable {
  /// Dropped for another reason than those below, for example a frame larger than a chunk.
  public var receiveDropped: UInt64 = 0
  /// Fill ring entries that were no valid address.
  public var receiveInvalid: UInt64 = 0
  /// TX ring entries that were no valid descriptor.
  public var transmitInvalid: UInt64 = 0
  /// Dropped because the RX ring was full.
  public var receiveRingFull: UInt64 = 0
  /// Dropped because the fill ring was empty.
  public var fillRingEmpty: UInt64 = 0
  /// Times that the kernel found the TX ring empty.
  public var transmitRingEmpty: UInt64 = 0

  public init() {}
}

/// Ring sizes of a socket; powers of two.
public struct XDPRingSizes: Equatable, Sendable {
  /// Entries of the fill ring and of the RX ring.
  public var receive: Int
  /// Entries of the TX ring and of the completion ring.
  public var transmit: Int

  public init(receive: Int = 2048, transmit: Int = 1024) {
    self.receive = receive
    self.transmit = transmit
  }
}

public struct XDPSocket: ~Copyable, Sendable {
  /// How long a busy queue is tried again, in milliseconds, if somebody may have it, and if nobody can.
  static let busyPatience = (held: UInt64(1000), free: UInt64(15000))
  /// Packets that one wake-up sends, where the kernel lets us say (since 6.17; else 32).
  static let transmitBudget: UInt32 = 256
  /// Bytes that may be on their way through the device at once; the default of about 200 KiB
  /// holds up a NIC that completes late.
  static let sendBuffer: CInt = 16 << 20
  /// Packets that the kernel takes from the device at a call, with busy polling: as many as it takes
  /// at an interrupt.
  static let busyPollBudget: CInt = 64

  public let interface: XDPInterface
  public let queue: Int
  public let zeroCopy: Bool
  /// Packets may lie in several frames.
  public let multiBuffer: Bool
  public let transmitPath: TransmitPath
  /// Why zero-copy was wanted and not got; nil if it was got or not wanted.
  public let copyReason: String?
  public let busyPolling: BusyPolling
  public let checksumFiller: ChecksumFiller
  /// Bytes of its chunk before a transmitted frame.
  public let transmitOffset: Int
  public let rings: HotState<XDPRings>
  public let memory: FrameMemory
  private let socket: MappedSocket

  /// Opens, fills and binds a socket.
  /// - Parameters:
  ///   - memory: frames in both budgets; the queue takes it over.
  ///   - mode: where the program that will feed the socket is attached.
  ///   - multiBuffer: packets may lie in several frames; see `multiBufferRefusal`.
  ///   - busyPolling: asks for it.
  ///   - checksums: who shall fill in checksums, of packets that lie in one frame.
  ///   - grant: has an open socket for us.
  public init(
    interface: XDPInterface, queue: Int, memory: consuming FrameMemory,
    sizes: XDPRingSizes = XDPRingSizes(), mode: XDPMode, copyMode: CopyModeChoice,
    multiBuffer: Bool = false, busyPolling: Bool = false, checksums: ChecksumChoice = .daemon,
    grant: XDPGrant? = nil
  ) throws(XDPSocketError) {
    let place = "\(interface.name) queue \(queue)"
    var socket = try XDPSocket.open(for: place, grant)
    let probe = ChecksumProbe(checksums, interface, mode: mode, copyMode: copyMode)
    let refusal = try probe.register(memory, with: socket, for: place)
    var rings = try XDPSocket.makeRings(&socket, memory, sizes, for: place)
    _ = rings.refill()
    socket.raiseTransmitLimits()
    copyReason = try XDPSocket.bind(
      socket, interface: interface, queue: queue, mode: mode, choice: copyMode,
      flags: multiBuffer ? MappedSocket.multiBufferFlag : 0)
    self.busyPolling = busyPolling ? socket.preferBusyPolling() : .off
    let options = try? socket.option(XDP_OPTIONS, default: xdp_options())
    zeroCopy = options.map { $0.flags & UInt32(XDP_OPTIONS_ZEROCOPY) != 0 } ?? false
    transmitOffset = refusal == nil ? TransmitMetadata.frameOffset : 0
    checksumFiller = probe.filler(refusal: refusal, zeroCopy: zeroCopy)
    transmitPath = TransmitPath(zeroCopy: zeroCopy, driver: driverName(of: interface.name))
    self.interface = interface
    self.queue = queue
    self.multiBuffer = multiBuffer
    self.rings = HotState(rings)
    self.memory = memory
    self.socket = socket
  }

  /// For epoll: readable while received frames wait.  Not to be read from.
  public var descriptor: CInt { socket.descriptor }

  /// All zero if the kernel does not tell.  May be asked on any thread.
  public var statistics: XDPSocketStatistics {
    let raw = (try? socket.option(XDP_STATISTICS, default: xdp_statistics())) ?? xdp_statistics()
    var statistics = XDPSocketStatistics()
    statistics.receiveDropped = raw.rx_dropped
    statistics.receiveInvalid = raw.rx_invalid_descs
    statistics.transmitInvalid = raw.tx_invalid_descs
    statistics.receiveRingFull = raw.rx_ring_full
    statistics.fillRingEmpty = raw.rx_fill_ring_empty_descs
    statistics.transmitRingEmpty = raw.tx_ring_empty_descs
    return statistics
  }

  static func open(
    for place: String, _ grant: XDPGrant?
  ) throws(XDPSocketError) -> MappedSocket {
    if let granted = grant?.takeSocket() { return MappedSocket(adopting: granted) }
    do {
      return try MappedSocket()
    } catch {
      let remedy =
        switch error.code {
        case EPERM, EACCES: ": run as root or give CAP_NET_RAW"
        case EAFNOSUPPORT: ": the kernel is built without CONFIG_XDP_SOCKETS"
        default: ""
        }
      throw XDPSocketError("cannot open an AF_XDP socket for \(place): \(error)\(remedy)", error)
    }
  }

  private static func makeRings(
    _ socket: inout MappedSocket, _ memory: borrowing FrameMemory, _ sizes: XDPRingSizes,
    for place: String
  ) throws(XDPSocketError) -> XDPRings {
    do {
      let memories = unsafe try socket.mapRings(sizes)
      return unsafe XDPRings(
        fill: ProducerRing(memories.fill), receive: ConsumerRing(memories.receive),
        transmit: ProducerRing(memories.transmit), completion: ConsumerRing(memories.completion),
        receiveFrames: FrameStack(chunks: memory.geometry.receiveChunks),
        transmitFrames: FrameStack(chunks: memory.geometry.transmitChunks),
        layout: memory.layout)
    } catch {
      throw XDPSocketError("cannot set up the rings of \(place): \(error)", error)
    }
  }
}

extension XDPSocket {
  /// Binds, by the ladder zero-copy, copy.
  /// - Returns: why zero-copy was not got.
  private static func bind(
    _ socket: borrowing MappedSocket, interface: XDPInterface, queue: Int, mode: XDPMode,
    choice: CopyModeChoice, flags: UInt16
  ) throws(XDPSocketError) -> String? {
    var reason: String?
    if choice != .copy {
      if mode == .skb {
        reason = "zero-copy needs native XDP"
      } else if let error = bind(socket, interface, queue, flags | UInt16(XDP_ZEROCOPY)) {
        if error.code == EBUSY { throw busy(interface, queue, error) }
        let driver = driverName(of: interface.name).map { "driver \($0)" } ?? "the driver"
        let kind = flags == 0 ? "zero-copy" : "zero-copy with packets of several frames"
        reason = "\(driver) refused \(kind): \(error)"
      } else {
        return nil
      }
      if choice == .zeroCopy, let reason {
        throw XDPSocketError(
          "no zero-copy on \(interface.name) queue \(queue): \(reason); "
            + "use --copy-mode=auto or copy", Errno(EOPNOTSUPP))
      }
    }
    guard let error = bind(socket, interface, queue, flags | UInt16(XDP_COPY)) else {
      return reason
    }
    let place = "\(interface.name) queue \(queue)"
    switch error.code {
    case EBUSY: throw busy(interface, queue, error)
    case EINVAL:
      throw XDPSocketError(
        "cannot bind to \(place): \(error): is there such a queue? "
          + "`ethtool -l \(interface.name)` lists them, --queues=N asks for fewer", error)
    case ENETDOWN:
      throw XDPSocketError(
        "cannot bind to \(place): the interface is down; `ip link set \(interface.name) up`", error)
    default:
      throw XDPSocketError("cannot bind to \(place): \(error)", error)
    }
  }

  /// Binds with `flags`; waits for a queue that is just being freed.
  private static func bind(
    _ socket: borrowing MappedSocket, _ interface: XDPInterface, _ queue: Int, _ flags: UInt16
  ) -> Errno? {
    var address = sockaddr_xdp(
      sxdp_family: UInt16(AF_XDP), sxdp_flags: flags | UInt16(XDP_USE_NEED_WAKEUP),
      sxdp_ifindex: interface.index, sxdp_queue_id: UInt32(queue), sxdp_shared_umem_fd: 0)
    var pause: UInt32 = 7
    let begin = MonotonicClock.milliseconds
    var patience: UInt64?
    while true {
      let result = unsafe withUnsafePointer(to: &address) {
        unsafe $0.withMemoryRebound(to: sockaddr.self, capacity: 1) {
          unsafe Glibc.bind(
            socket.descriptor, $0, socklen_t(MemoryLayout<sockaddr_xdp>.size))
        }
      }
      if result == 0 { return nil }
      let error = Errno.current
      guard error.code == EBUSY else { return error }
      let waited = MonotonicClock.milliseconds - begin
      if waited >= busyPatience.held {
        // One look: it reads what all processes have mapped.
        let most = patience ?? (hasForeignHolders() ? busyPatience.held : busyPatience.free)
        patience = most
        if waited >= most { return error }
      }
      usleep(pause * 1000)
      pause = min(2 * pause, 50)
    }
  }

  private static func busy(
    _ interface: XDPInterface, _ queue: Int, _ error: Errno
  ) -> XDPSocketError {
    let holders = socketHolders()
    let named =
      holders.isEmpty
      ? ", of no process that can be seen from here"
      : "; AF_XDP sockets are open in \(holders.joined(separator: ", "))"
    return XDPSocketError(
      "\(interface.name) queue \(queue) is in use by another AF_XDP socket (EBUSY)\(named): "
        + "stop that program or choose another interface", error)
  }
}
