// The steering program on one interface.
//
// It is attached through a bpf_link whose only descriptor is ours, so it goes with the process,
// however that ends.  A program that somebody else has attached is left alone: detaching it would
// take their traffic, and the kernel lets nobody replace a link.
import CBPF
import Glibc
import Linux

/// Why the program cannot be attached: one line that names the interface and the remedy.
public struct XDPProgramError: Error, Equatable, Sendable, CustomStringConvertible {
  public let description: String
  init(_ description: String) { self.description = description }
}

public final class XDPProgram: Sendable {
  public let interface: XDPInterface
  private let link: ProgramLink
  private let maps: ProgramMaps

  public var mode: XDPMode { link.mode }
  /// Why native XDP was wanted and not got; nil if it was got or not wanted.
  public var skbReason: String? { link.skbReason }
  /// Packets of several buffers go through it.
  public let takesFragments: Bool
  /// The kernel's number of it; nil if it does not tell.
  public let id: Int?

  /// Loads the program, unless that has been done, and attaches it.
  /// - Parameters:
  ///   - queues: NIC queues that may get a socket: 0 ..< queues.
  ///   - patience: milliseconds to wait for a daemon of ours that is just ending.
  ///   - grant: has the program loaded, for this steering and these queues.
  public init(
    interface: XDPInterface, steering: Steering, queues: Int, mode: XDPModeChoice,
    patience: Int = 2000, grant: XDPGrant? = nil
  ) throws(XDPProgramError) {
    var waited = 0
    while let present = AttachedProgram(on: interface) {
      guard present.isOurs, waited < patience else { throw present.refusal(on: interface) }
      usleep(10_000)
      waited += 10
    }
    let loaded = try XDPProgram.load(interface, steering, queues, grant)
    takesFragments = loaded.takesFragments
    let program = loaded.program.raw
    id = AttachedProgram.id(of: program).map(Int.init)
    if case .addresses(let addresses) = steering {
      for address in addresses {
        try XDPProgram.add(address, to: loaded.maps, of: interface)
      }
    }
    link = try ProgramLink(program: program, interface: interface, choice: mode)
    maps = loaded.maps
    self.interface = interface
  }

  static func load(
    _ interface: XDPInterface, _ steering: Steering, _ queues: Int, _ grant: XDPGrant? = nil
  ) throws(XDPProgramError) -> LoadedProgram {
    if let granted = grant?.takeProgram() { return granted }
    let object = try ProgramObject(steering: steering, queues: queues, interface: interface)
    return try object.loaded()
  }

  /// Gives the frames of a NIC queue to the socket that is bound to it.  A socket that is closed
  /// leaves the map by itself.
  public func connect(_ socket: borrowing XDPSocket) throws(XDPProgramError) {
    var key = UInt32(socket.queue)
    var value = socket.descriptor
    let result = unsafe bpf_map_update_elem(maps.sockets.raw, &key, &value, 0)
    guard result == 0 else {
      throw XDPProgramError(
        "cannot connect \(interface.name) queue \(socket.queue) to its socket: \(Errno(-result))")
    }
  }

  /// Takes unicast frames for `address` (6 bytes) from the interface, too.
  public func add(address: [UInt8]) throws(XDPProgramError) {
    try XDPProgram.add(address, to: maps, of: interface)
  }

  /// Leaves unicast frames for `address` (6 bytes) to the kernel again.
  public func remove(address: [UInt8]) {
    precondition(address.count == 6)
    _ = unsafe bpf_map_delete_elem(maps.addresses.raw, address)
  }

  private static func add(
    _ address: [UInt8], to maps: borrowing ProgramMaps, of interface: XDPInterface
  ) throws(XDPProgramError) {
    precondition(address.count == 6)
    var value: UInt8 = 1
    let result = unsafe bpf_map_update_elem(maps.addresses.raw, address, &value, 0)
    guard result == 0 else {
      let remedy = result == -E2BIG ? ": at most 256 addresses fit" : ""
      throw XDPProgramError(
        "cannot steer another address of \(interface.name): \(Errno(-result))\(remedy)")
    }
  }
}
