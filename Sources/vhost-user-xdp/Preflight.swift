// May this daemon take this interface, and what would be lost?  A pure decision over what was
// read; the effects follow in `InterfacePort`.
//
// Two rules.  Nobody loses a host to this daemon: an interface that the host needs is taken only
// when the command line says how.  And packets are not lost in silence: a configuration in which
// the NIC or the kernel drops them is refused with the command that cures it, or accepted with a
// warning when --force says so.
import AFXDP
import HostPort
import Linux
import Packet

/// What the command line asks for.
struct InterfaceRequest: Equatable {
  var queuePairs = 1
  var addresses: [MACAddress] = []
  var dedicated = false
  var force = false
  var xdpMode = XDPModeChoice.auto
  /// The kernel lets a packet lie in several frames.
  var multiBuffer = true
}

/// What is to be done with an interface that may be taken.
struct Preflight: Equatable {
  /// Addresses whose packets go to the guest; empty: all packets do.
  var addresses: [MACAddress]
  /// What that means to the program.
  var steering: Steering {
    addresses.isEmpty ? .dedicated : .addresses(addresses.map(\.bytes))
  }
  /// Queues of the interface to open, from 0: all that packets can arrive on, and as many as there
  /// are pairs if it has them.
  var queueCount: Int
  /// Lines for the log.
  var warnings: [String]
  /// Lines for the log about what works, in another way than asked for.
  var notes: [String]

  /// Without multi-buffer, native mode on a veth needs packets of its other end that fit a page with
  /// headroom, Ethernet header and skb_shared_info (drivers/net/veth.c, veth_xdp_set).
  static let largestNativePeerMTU = 4096 - 256 - 14 - 320

  init(_ interface: Interface, _ request: InterfaceRequest) throws(StartFailure) {
    guard interface.isEthernet else {
      throw StartFailure(
        "\(interface.name) carries no Ethernet frames, which is what the guest sends; choose "
          + "another --interface")
    }
    addresses = try Preflight.addresses(interface, request)
    if let impossible = Preflight.impossible(interface, request) { throw impossible }
    let losses = Preflight.losses(interface, request)
    if let loss = losses.first, !request.force {
      throw StartFailure(loss + ", or accept it with --force")
    }
    queueCount = min(
      interface.receiveQueues.count,
      max(request.queuePairs, (interface.queuesWithTraffic.last ?? 0) + 1))
    notes = Preflight.notes(interface, queueCount, request.queuePairs)
    warnings = losses + Preflight.warnings(interface, isDedicated: addresses.isEmpty)
  }

  private static func addresses(
    _ interface: Interface, _ request: InterfaceRequest
  ) throws(StartFailure) -> [MACAddress] {
    if request.dedicated || !request.addresses.isEmpty { return request.addresses }
    guard let use = interface.hostUses.first(where: \.isNeeded) else { return [] }
    let name = interface.name
    let subject = use.device == name ? name : "\(name) is below \(use.device), which"
    throw StartFailure(
      "\(subject) carries \(use.text), which the host would lose; give the guest's address, as in "
        + "--mac=52:54:00:12:34:56, and the host keeps all else, or give \(name) up with --dedicated"
    )
  }

  /// What no option can get around.
  private static func impossible(
    _ interface: Interface, _ request: InterfaceRequest
  ) -> StartFailure? {
    let name = interface.name
    if request.xdpMode == .native, !request.multiBuffer, let peer = interface.peer,
      let mtu = peer.mtu, mtu > largestNativePeerMTU
    {
      let end = peer.name ?? "the other end of \(name)"
      return StartFailure(
        "\(end) has MTU \(mtu), native XDP on \(name) works up to \(largestNativePeerMTU); run "
          + "`ip link set \(peer.name ?? "PEER") mtu \(largestNativePeerMTU)` or use --xdp-mode=skb"
      )
    }
    return nil
  }

  /// What loses packets, each with its cure.
  private static func losses(_ interface: Interface, _ request: InterfaceRequest) -> [String] {
    let name = interface.name
    var losses: [String] = []
    // On a veth the setting has no effect: tags are with the sender's (see `warnings`).
    if interface.stripsVLAN && interface.peer == nil {
      losses.append(
        "\(name) takes VLAN tags out of packets, and the guest would get tagged ones untagged; run "
          + "`ethtool -K \(name) rxvlan off`")
    }
    let largest = XDPPort.largestMTU(multiBuffer: request.multiBuffer)
    if interface.mtu > largest {
      let reason = request.multiBuffer ? "" : "without multi-buffer AF_XDP (Linux 6.6) "
      losses.append(
        "\(name) has MTU \(interface.mtu), \(reason)at most \(largest) works and larger packets "
          + "would be dropped; run `ip link set \(name) mtu \(largest)`")
    }
    return losses
  }

  /// How queue pairs and queues of the interface go together where they are not equally many.
  private static func notes(_ interface: Interface, _ opened: Int, _ pairs: Int) -> [String] {
    let (name, queues) = (interface.name, interface.receiveQueues)
    let difference = abs(opened - pairs)
    let command = queues.channelKind.map { "`ethtool -L \(name) \($0) \(pairs)`" }
    if pairs < opened {
      let cure = command.map {
        "; \($0) would spare \(difference == 1 ? "its socket" : "their sockets")"
      }
      return [
        "\(name) spreads packets over \(counted(opened, "queue")), there "
          + "\(pairs == 1 ? "is" : "are") \(counted(pairs, "queue pair")): "
          + "queue\(range(pairs, opened)) feed\(difference == 1 ? "s" : "") the pairs that the "
          + "guest uses" + (cure ?? "")
      ]
    }
    if pairs > opened {
      let cure = (queues.most ?? 0) >= pairs ? command.map { "; \($0) gives each its own" } : nil
      let ending = difference == 1 ? "s" : ""
      return [
        "\(name) has \(counted(opened, "queue")) for \(pairs) queue pairs: "
          + "pair\(range(opened, pairs)) transmit\(ending) through the queues of the others and "
          + "receive\(ending) nothing" + (cure ?? "")
      ]
    }
    return []
  }

  /// " 2" or "s 2 to 7".
  private static func range(_ first: Int, _ end: Int) -> String {
    end - first == 1 ? " \(first)" : "s \(first) to \(end - 1)"
  }

  /// What can be wrong outside this interface.
  private static func warnings(_ interface: Interface, isDedicated: Bool) -> [String] {
    var warnings: [String] = []
    let name = interface.name
    if interface.isUp && !interface.hasCarrier {
      warnings.append("\(name) has no carrier; no packet passes until its other end is up")
    }
    if isDedicated {
      for use in interface.hostUses where use.isNeeded || use.device != name {
        let what = use.isNeeded ? "the host loses \(use.text) on" : "no packet arrives any more on"
        warnings.append("\(name) is dedicated to the guest: \(what) \(use.device)")
      }
    }
    if let peer = interface.peer {
      switch peer.leavesChecksums {
      case true?:
        let end = peer.name ?? "PEER"
        warnings.append(
          "\(end), the other end of \(name), leaves checksums unfilled, and the guest drops such "
            + "TCP and UDP packets; run `ethtool -K \(end) tx off`")
      case nil:
        let end = peer.name.map { "\($0), the other end of \(name)," } ?? "the other end of \(name)"
        warnings.append(
          "\(end) is in another network namespace and cannot be asked whether it fills in "
            + "checksums; if the guest misses TCP and UDP packets, run there "
            + "`ethtool -K \(peer.name ?? "PEER") tx off`")
      case false?: break
      }
    }
    return warnings
  }

  private static func counted(_ count: Int, _ noun: String) -> String {
    "\(count) \(noun)\(count == 1 ? "" : "s")"
  }
}

extension Interface.HostUse {
  /// Whether the host would lose connections without it.
  var isNeeded: Bool { !addresses.isEmpty || hasDefaultRoute }

  /// What it carries: "192.0.2.1/24 and the default route".
  fileprivate var text: String {
    let carried = addresses + (hasDefaultRoute ? ["the default route"] : [])
    guard let last = carried.last, carried.count > 1 else { return carried.first ?? "nothing" }
    return carried.dropLast().joined(separator: ", ") + " and " + last
  }
}
