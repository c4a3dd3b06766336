// Which interfaces are taken, and what is said of the others.
import AFXDP
import Linux
import Packet
import Testing

@testable import vhost_user_xdp

@Suite("Preflight")
struct PreflightTests {
  private let guest = MACAddress("52:54:00:12:34:56")!

  private func interface(
    _ change: (inout Interface) -> Void = { _ in }
  ) -> Interface {
    var interface = Interface(name: "eth1", index: 7, hostUses: [.init(device: "eth1")])
    change(&interface)
    return interface
  }

  private func refusal(_ interface: Interface, _ request: InterfaceRequest = .init()) -> String {
    do throws(StartFailure) {
      let accepted = try Preflight(interface, request)
      return "accepted: \(accepted)"
    } catch {
      return error.description
    }
  }

  @Test("an interface that the host does not use is dedicated")
  func unused() throws {
    let preflight = try Preflight(interface(), InterfaceRequest())
    #expect(preflight.addresses.isEmpty)
    #expect(preflight.warnings.isEmpty)
  }

  @Test("an interface without a carrier is taken with a warning")
  func noCarrier() throws {
    let preflight = try Preflight(interface { $0.hasCarrier = false }, InterfaceRequest())
    #expect(
      preflight.warnings == ["eth1 has no carrier; no packet passes until its other end is up"])
  }

  @Test("an interface with an address is refused, with both remedies")
  func address() {
    let used = interface { $0.hostUses[0].addresses = ["192.0.2.1/24"] }
    #expect(
      refusal(used) == """
        eth1 carries 192.0.2.1/24, which the host would lose; give the guest's address, as in \
        --mac=52:54:00:12:34:56, and the host keeps all else, or give eth1 up with --dedicated
        """)
  }

  @Test("an interface with a default route and no address is refused too")
  func defaultRoute() {
    let used = interface { $0.hostUses[0].hasDefaultRoute = true }
    #expect(refusal(used).hasPrefix("eth1 carries the default route, which"))
  }

  @Test("all that the host would lose is named")
  func everythingCarried() {
    let used = interface {
      $0.hostUses[0].addresses = ["192.0.2.1/24", "2001:db8::1/64"]
      $0.hostUses[0].hasDefaultRoute = true
    }
    #expect(
      refusal(used).hasPrefix("eth1 carries 192.0.2.1/24, 2001:db8::1/64 and the default route,"))
  }

  @Test("the port of a bridge that carries the host's address is refused")
  func bridgePort() {
    let used = interface {
      $0.hostUses.append(.init(device: "br0", addresses: ["192.0.2.1/24"]))
    }
    #expect(refusal(used).hasPrefix("eth1 is below br0, which carries 192.0.2.1/24,"))
  }

  @Test("the port of a bridge without an address is taken, and the bridge's loss is said")
  func idleBridgePort() throws {
    let used = interface { $0.hostUses.append(.init(device: "br0")) }
    let preflight = try Preflight(used, InterfaceRequest())
    #expect(preflight.addresses.isEmpty)
    #expect(
      preflight.warnings == [
        "eth1 is dedicated to the guest: no packet arrives any more on br0"
      ])
  }

  @Test("with the guest's address an interface that the host uses is shared, silently")
  func shared() throws {
    let used = interface { $0.hostUses[0].addresses = ["192.0.2.1/24"] }
    let preflight = try Preflight(used, InterfaceRequest(addresses: [guest]))
    #expect(preflight.addresses == [guest])
    #expect(preflight.warnings.isEmpty)
  }

  @Test("--dedicated takes an interface from the host, and says what the host loses")
  func dedicated() throws {
    let used = interface { $0.hostUses[0].addresses = ["192.0.2.1/24"] }
    let preflight = try Preflight(used, InterfaceRequest(dedicated: true))
    #expect(preflight.addresses.isEmpty)
    #expect(
      preflight.warnings == ["eth1 is dedicated to the guest: the host loses 192.0.2.1/24 on eth1"])
  }

  @Test("what carries no Ethernet is refused")
  func notEthernet() {
    #expect(refusal(interface { $0.isEthernet = false }).contains("no Ethernet frames"))
  }

  @Test("as many pairs as queues need no word")
  func evenPairs() throws {
    let even = interface { $0.receiveQueues = .init(count: 4, hashed: [0, 1, 2, 3]) }
    let preflight = try Preflight(even, InterfaceRequest(queuePairs: 4))
    #expect(preflight.queueCount == 4 && preflight.notes.isEmpty && preflight.warnings.isEmpty)
  }

  @Test("queue pairs beyond the queues share them, and the line says what gives each its own")
  func tooManyPairs() throws {
    let settable = interface {
      $0.receiveQueues = .init(count: 2, most: 8, channelKind: "combined")
    }
    let shared = try Preflight(settable, InterfaceRequest(queuePairs: 4))
    #expect(shared.queueCount == 2)
    #expect(
      shared.notes == [
        "eth1 has 2 queues for 4 queue pairs: pairs 2 to 3 transmit through the queues of the "
          + "others and receive nothing; `ethtool -L eth1 combined 4` gives each its own"
      ])
    let fixed = interface { $0.receiveQueues = .init(count: 1, most: 1, channelKind: "rx") }
    #expect(
      try Preflight(fixed, InterfaceRequest(queuePairs: 2)).notes == [
        "eth1 has 1 queue for 2 queue pairs: pair 1 transmits through the queues of the others and "
          + "receives nothing"
      ])
  }

  @Test("queues beyond the pairs that packets can arrive on are opened, and feed the pairs")
  func extraQueues() throws {
    let spread = interface {
      $0.receiveQueues = .init(count: 8, most: 8, channelKind: "combined", hashed: Array(0..<6))
    }
    let preflight = try Preflight(spread, InterfaceRequest(queuePairs: 2))
    #expect(preflight.queueCount == 6)
    #expect(preflight.warnings.isEmpty)
    #expect(
      preflight.notes == [
        "eth1 spreads packets over 6 queues, there are 2 queue pairs: queues 2 to 5 feed the pairs "
          + "that the guest uses; `ethtool -L eth1 combined 2` would spare their sockets"
      ])
  }

  @Test("queues that the hash table leaves out need no socket")
  func restrictedHash() throws {
    let restricted = interface {
      $0.receiveQueues = .init(count: 8, most: 8, channelKind: "combined", hashed: [0, 1])
    }
    let preflight = try Preflight(restricted, InterfaceRequest(queuePairs: 2))
    #expect(preflight.queueCount == 2 && preflight.notes.isEmpty && preflight.warnings.isEmpty)
  }

  @Test("without a hash table every queue counts")
  func noHashTable() throws {
    let rx = interface { $0.receiveQueues = .init(count: 2, most: 4, channelKind: "rx") }
    let preflight = try Preflight(rx, InterfaceRequest())
    #expect(preflight.queueCount == 2)
    #expect(
      preflight.notes == [
        "eth1 spreads packets over 2 queues, there is 1 queue pair: queue 1 feeds the pairs that "
          + "the guest uses; `ethtool -L eth1 rx 1` would spare its socket"
      ])
  }

  @Test("VLAN stripping is refused with the command that ends it")
  func stripping() {
    let stripping = interface { $0.stripsVLAN = true }
    #expect(refusal(stripping).contains("`ethtool -K eth1 rxvlan off`"))
  }

  @Test("the setting for VLAN tags of a veth, which has no effect, is no reason")
  func vethStripping() throws {
    let veth = interface {
      $0.stripsVLAN = true
      $0.peer = .init(name: "eth2", leavesChecksums: false)
    }
    #expect(try Preflight(veth, InterfaceRequest()).warnings.isEmpty)
  }

  @Test("a jumbo MTU is taken where packets may lie in several frames", arguments: [9000, 65262])
  func jumboMTU(mtu: Int) throws {
    let preflight = try Preflight(interface { $0.mtu = mtu }, InterfaceRequest())
    #expect(preflight.warnings.isEmpty && preflight.notes.isEmpty)
  }

  @Test(
    "an MTU beyond the frames of a packet is refused with the largest that works",
    arguments: [(true, 65262), (false, 3822)])
  func largeMTU(multiBuffer: Bool, largest: Int) {
    let request = InterfaceRequest(multiBuffer: multiBuffer)
    #expect(refusal(interface { $0.mtu = largest }, request).hasPrefix("accepted"))
    let text = refusal(interface { $0.mtu = largest + 1 }, request)
    #expect(text.contains("`ip link set eth1 mtu \(largest)`"))
    #expect(text.contains("without multi-buffer AF_XDP (Linux 6.6)") == !multiBuffer)
  }

  @Test("--force accepts every loss and says each")
  func force() throws {
    let bad = interface {
      $0.stripsVLAN = true
      $0.mtu = 9000
    }
    let request = InterfaceRequest(force: true, multiBuffer: false)
    let warnings = try Preflight(bad, request).warnings
    #expect(warnings.count == 2)
    #expect(!warnings.contains { $0.contains("--force") })
  }

  @Test("--force does not take an interface from the host")
  func forceKeepsHost() {
    let used = interface { $0.hostUses[0].addresses = ["192.0.2.1/24"] }
    #expect(refusal(used, InterfaceRequest(force: true)).contains("--dedicated"))
  }

  @Test("without multi-buffer native XDP is refused on a veth whose other end has a large MTU")
  func nativeOnVeth() throws {
    let veth = interface { $0.peer = .init(name: "eth2", leavesChecksums: false, mtu: 3507) }
    let native = InterfaceRequest(xdpMode: .native, multiBuffer: false)
    #expect(refusal(veth, native).contains("`ip link set eth2 mtu 3506`"))
    for request in [InterfaceRequest(multiBuffer: false), InterfaceRequest(xdpMode: .native)] {
      #expect(try Preflight(veth, request).warnings.isEmpty)
    }
  }

  @Test("a veth whose other end leaves checksums unfilled is taken with a warning")
  func checksums() throws {
    let veth = interface { $0.peer = .init(name: "eth2", leavesChecksums: true) }
    let warnings = try Preflight(veth, InterfaceRequest()).warnings
    #expect(warnings.count == 1)
    #expect(warnings.first?.contains("`ethtool -K eth2 tx off`") == true)
  }

  @Test("a veth whose other end cannot be asked is taken with a conditional warning")
  func unknownChecksums() throws {
    let veth = interface { $0.peer = .init(name: "eth0") }
    let warnings = try Preflight(veth, InterfaceRequest()).warnings
    #expect(warnings.first?.hasPrefix("eth0, the other end of eth1, is in another") == true)
  }
}
