// A network interface, through AF_XDP: one socket per NIC queue, fed by the steering program.
public import AFXDP
public import Packet
import Glibc
import Linux
import Synchronization

/// What an `XDPPort` is made from.
public struct XDPPortOptions: Sendable {
  /// Frames that the data path may hold back without the fill ring running low.
  static let heldFrames = 256

  public var interface: XDPInterface
  /// The interface's, in bytes.
  public var mtu: Int
  /// Sockets are opened on the NIC queues 0 ..< queueCount.
  public var queueCount: Int
  /// The NUMA node of the NIC; nil if it has none.
  public var numaNode: Int?
  public var xdpMode: XDPModeChoice = .auto
  public var copyMode: CopyModeChoice = .auto
  /// The guest's addresses; empty: the interface is dedicated to the guest.
  public var addresses: [MACAddress] = []
  public var rings = XDPRingSizes()
  /// Asks the kernel to do the device's work when a worker looks.
  public var busyPolling = false
  public var bulkLane = BulkLaneChoice.off
  /// The interface cuts large TCP packets itself, as it is set now.
  public var segmentsTCP = false
  /// The other end of a veth, if it runs an XDP program.
  public var peerWithXDP: String?
  /// Who shall fill in the checksums that frames leave open.
  public var checksums: ChecksumChoice = .auto
  /// What another process has opened for this one, which has no privileges.
  public var grant: XDPGrant?

  public init(interface: XDPInterface, mtu: Int, queueCount: Int = 1, numaNode: Int? = nil) {
    self.interface = interface
    self.mtu = mtu
    self.queueCount = queueCount
    self.numaNode = numaNode
  }
}

/// A host interface.  The program is attached while the port or one of its queues lives.
public final class XDPPort: HostPort {
  public let name: String
  public let capabilities: PortCapabilities
  /// What the operator should know, one line each: why not native XDP, frames that do not fit.
  public let notes: [String]
  private let options: XDPPortOptions
  private let geometry: FrameGeometry
  private let program: XDPProgram
  /// More than 1: packets may lie in several frames.
  private let framesPerPacket: Int
  private let gate = LaneGate()

  /// The kernel's number of the steering program; nil if it does not tell.
  public var programID: Int? { program.id }

  /// Attaches the steering program; no socket is open yet, so the kernel still gets every frame.
  public init(_ options: XDPPortOptions) throws(PortError) {
    let name = options.interface.name
    // The largest batch more than the ring holds: see XDPQueue.swift.
    geometry = FrameGeometry(
      chunkSize: FrameGeometry.chunkSize(forMTU: options.mtu),
      receiveFrames: options.rings.receive + XDPPortOptions.heldFrames,
      transmitFrames: options.rings.transmit + FrameBatch.largestCapacity)
    do {
      program = try XDPProgram(
        interface: options.interface,
        steering: options.addresses.isEmpty
          ? .dedicated : .addresses(options.addresses.map(\.bytes)),
        queues: options.queueCount, mode: options.xdpMode, grant: options.grant)
    } catch {
      throw PortError(error.description)
    }
    var notes: [String] = []
    if let reason = program.skbReason { notes.append("\(name): skb XDP, not native: \(reason)") }
    let refusal = XDPPort.multiBufferRefusal(program, options.grant)
    let largest = XDPPort.largestMTU(multiBuffer: refusal == nil)
    let mtu = min(options.mtu, largest)
    if options.mtu > largest {
      notes.append(
        "\(name): MTU \(options.mtu) is too large, packets beyond \(largest) are dropped"
          + (refusal.map { ": " + $0 } ?? "") + "; `ip link set \(name) mtu \(largest)`")
    }
    framesPerPacket = geometry.framesPerPacket(forMTU: mtu)
    self.notes = notes
    self.name = name
    self.options = options
    capabilities = PortCapabilities(
      queueCount: options.queueCount, mtu: mtu, frameSize: geometry.frameRoom)
  }

  /// The largest MTU of an interface that this port carries.
  /// - Parameter multiBuffer: packets may lie in several frames.
  public static func largestMTU(multiBuffer: Bool) -> Int {
    multiBuffer ? FrameGeometry.largestMultiBufferMTU : FrameGeometry.largestMTU
  }

  /// Why packets cannot lie in several frames; nil if they can.
  private static func multiBufferRefusal(_ program: XDPProgram, _ grant: XDPGrant?) -> String? {
    guard program.takesFragments else {
      return "the kernel takes no XDP program for packets of several buffers"
    }
    return AFXDP.multiBufferRefusal(grant)
  }

  public func openQueue(_ index: Int) throws(PortError) -> any HostPortQueue {
    precondition(index >= 0 && index < options.queueCount)
    let memory: FrameMemory
    do {
      memory = try FrameMemory(geometry, node: options.numaNode)
    } catch {
      throw PortError(
        "cannot allocate \(geometry.length / 1024) KiB of frame memory for \(name) "
          + "queue \(index): \(error)")
    }
    let socket: XDPSocket
    do {
      socket = try XDPSocket(
        interface: options.interface, queue: index, memory: memory, sizes: options.rings,
        mode: program.mode, copyMode: options.copyMode, multiBuffer: framesPerPacket > 1,
        busyPolling: options.busyPolling, checksums: options.checksums, grant: options.grant)
    } catch {
      throw PortError(error.description)
    }
    do {
      try program.connect(socket)
    } catch {
      throw PortError(error.description)
    }
    var (isWanted, reason) = options.bulkLane.decide(
      segmentsTCP: options.segmentsTCP, zeroCopy: socket.zeroCopy, peer: options.peerWithXDP)
    var packetSocket: PacketSocket?
    if isWanted {
      do throws(Errno) {
        packetSocket = options.grant?.takePacketSocket()
        if packetSocket == nil {
          packetSocket = try PacketSocket(interfaceIndex: Int(options.interface.index))
        }
      } catch {
        isWanted = false
        reason = "no packet socket: \(error)"
        if options.bulkLane == .packet { throw XDPPort.noPacketSocket(name, error) }
      }
    }
    return XDPQueue(
      socket, program, framesPerPacket: framesPerPacket, packetSocket: packetSocket,
      gate: gate, deviceCuts: options.segmentsTCP,
      bulkLane: isWanted ? BulkLane(mtu: options.mtu) : nil, bulkReason: reason)
  }

  /// To be told whether the interface segments TCP, whenever that may have changed: with
  /// `BulkLaneChoice.auto` packets leave uncut only while it does.  Of a veth that ends when an XDP
  /// program comes to its other end.
  /// - Returns: a line for the log, if it has changed.
  public func follow(segmentsTCP: Bool) -> String? {
    guard options.bulkLane == .auto, options.segmentsTCP, options.peerWithXDP == nil,
      gate.isOpen.exchange(segmentsTCP, ordering: .relaxed) != segmentsTCP
    else { return nil }
    return segmentsTCP
      ? "\(name) segments TCP again: large packets may leave by the bulk lane"
      : "\(name) does not segment TCP any more: no packet leaves by the bulk lane until it does"
  }

  private static func noPacketSocket(_ name: String, _ error: Errno) -> PortError {
    let remedy =
      switch error.code {
      case EPERM, EACCES: "give CAP_NET_RAW"
      case EAFNOSUPPORT: "the kernel is built without CONFIG_PACKET"
      default: "free descriptors or memory"
      }
    return PortError(
      "no packet socket on \(name) for --bulk-lane=packet: \(error); \(remedy), or use "
        + "--bulk-lane=off")
  }
}
