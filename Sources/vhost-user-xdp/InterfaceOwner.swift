// One daemon owns one interface: two would fight for the XDP hook and its queues, and each would
// see half of the packets.  The claim is on a name made of the interface's index, which like the
// name belongs to the network namespace, and which does not change when the interface is renamed.
import Linux

/// Holds an interface against other daemons of this kind.
struct InterfaceOwner: ~Copyable, Sendable {
  private let claim: NameClaim

  /// - Throws: if another process owns the interface; it is named.
  init(_ name: String, index: Int) throws(StartFailure) {
    do throws(NameClaim.Refusal) {
      claim = try NameClaim("vhost-user-xdp/interface/\(index)")
    } catch {
      switch error {
      case .held(by: let owner?):
        let program = ProcessSettings.name(ofProcess: owner) ?? "a process"
        throw StartFailure(
          "\(name): already served by \(program), pid \(owner); stop it or choose another "
            + "--interface")
      case .held(by: nil):
        throw StartFailure(
          "\(name): already served by a process that is not visible from here; stop it or choose "
            + "another --interface")
      case .failed(let errno):
        throw StartFailure("\(name): cannot be claimed: \(errno); free descriptors or memory")
      }
    }
  }

  /// For an epoll set: readable while another daemon asks who the owner is.
  var raw: Int32 { claim.raw }

  /// Hangs up on daemons that were refused, so that the next one is answered too.
  func dismissCallers() { claim.dismissCallers() }
}
