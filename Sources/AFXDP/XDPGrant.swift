// All that takes a privilege on the way to an interface, opened by one process for another that has none:
// the program in the kernel with its maps, AF_XDP sockets, packet sockets, and the interface's promiscuous
// mode.  What else has to be done with them takes none (Linux 5.19): memory, rings, bind(2), the entries of
// a map, attaching.
//
// They cross by sd_listen_fds(3), so a name says what each is.  Whoever hands them in is trusted, as the
// command line is.
import Glibc
public import Linux
import Synchronization

public final class XDPGrant: Sendable {
  /// The program's name in the handing tells whether it takes packets of several buffers.
  private enum Name {
    static let program = "xdp-program"
    static let programOfFragments = "xdp-program-fragments"
    static let socketsMap = "xdp-sockets-map"
    static let addressesMap = "xdp-addresses-map"
    static let socket = "xdp-socket"
    static let packetSocket = "packet-socket"
    static let promiscuous = "promiscuous-membership"
  }

  /// What descriptors of a grant are called.
  public static let names: Set<String> = [
    Name.program, Name.programOfFragments, Name.socketsMap, Name.addressesMap, Name.socket,
    Name.packetSocket, Name.promiscuous,
  ]

  private let handed: Mutex<HandedDescriptors>

  /// Nil if nothing was handed in.
  public init?(_ handed: consuming HandedDescriptors) {
    if handed.isEmpty { return nil }
    self.handed = Mutex(handed)
  }

  /// Closes what nobody has taken: it would be of use to whoever takes the process over.
  public func closeRest() {
    handed.withLock { $0 = HandedDescriptors() }
  }

  public func takePacketSocket() -> PacketSocket? {
    guard let socket = take(Name.packetSocket) else { return nil }
    return PacketSocket(adopting: socket)
  }

  public func takeMembership() -> PromiscuousMembership? {
    guard let socket = take(Name.promiscuous) else { return nil }
    return PromiscuousMembership(adopting: socket)
  }

  func takeSocket() -> OwnedDescriptor? { take(Name.socket) }

  func lendSocket<Result: Sendable>(_ body: (CInt) -> Result) -> Result? {
    handed.withLock { $0.lend(Name.socket, body) }
  }

  func takeProgram() -> LoadedProgram? {
    let ofFragments = take(Name.programOfFragments)
    let takesFragments = ofFragments != nil
    guard let program = takesFragments ? consume ofFragments : take(Name.program),
      let sockets = take(Name.socketsMap), let addresses = take(Name.addressesMap)
    else { return nil }
    return LoadedProgram(
      program: program, maps: ProgramMaps(sockets: sockets, addresses: addresses),
      takesFragments: takesFragments)
  }

  private func take(_ name: String) -> OwnedDescriptor? {
    handed.withLock { $0.take(name) }
  }
}

/// What a grant is to contain.
public struct XDPGrantRequest: Sendable {
  public var interface: XDPInterface
  public var steering: Steering
  /// Sockets, and entries of the program's map.
  public var queueCount: Int
  /// For the bulk lane, one for each queue.
  public var packetSockets: Bool
  public var promiscuous: Bool
  public var busyPolling: Bool

  public init(
    interface: XDPInterface, steering: Steering, queueCount: Int, packetSockets: Bool,
    promiscuous: Bool, busyPolling: Bool
  ) {
    self.interface = interface
    self.steering = steering
    self.queueCount = queueCount
    self.packetSockets = packetSockets
    self.promiscuous = promiscuous
    self.busyPolling = busyPolling
  }
}

extension XDPGrant {
  /// Why a grant cannot be had: one line.
  public struct Failure: Error, CustomStringConvertible {
    public let description: String
  }

  /// Opens everything.  Of the interface nothing changes but that it may become promiscuous.
  public static func open(_ request: XDPGrantRequest) throws(Failure) -> HandedDescriptors {
    var handed = HandedDescriptors()
    try appendProgram(request, to: &handed)
    let name = request.interface.name
    for queue in 0..<request.queueCount {
      do {
        let socket = try XDPSocket.open(for: "\(name) queue \(queue)", nil)
        socket.raiseTransmitLimits()
        if request.busyPolling { _ = socket.preferBusyPolling() }
        handed.append(Name.socket, try socket.duplicate())
      } catch {
        throw Failure(description: "\(error)")
      }
    }
    do {
      for _ in 0..<(request.packetSockets ? request.queueCount : 0) {
        let socket = try PacketSocket(interfaceIndex: Int(request.interface.index))
        handed.append(Name.packetSocket, try socket.duplicate())
      }
      if request.promiscuous {
        let membership = try PromiscuousMembership(interfaceIndex: Int(request.interface.index))
        handed.append(Name.promiscuous, membership.release())
      }
    } catch {
      throw Failure(
        description: "cannot open a packet socket on \(name): \(error); give CAP_NET_RAW")
    }
    return handed
  }

  private static func appendProgram(
    _ request: XDPGrantRequest, to handed: inout HandedDescriptors
  ) throws(Failure) {
    let loaded: LoadedProgram
    do {
      loaded = try XDPProgram.load(request.interface, request.steering, request.queueCount)
    } catch {
      throw Failure(description: error.description)
    }
    handed.append(loaded.takesFragments ? Name.programOfFragments : Name.program, loaded.program)
    handed.append(Name.socketsMap, loaded.maps.sockets)
    handed.append(Name.addressesMap, loaded.maps.addresses)
  }
}
