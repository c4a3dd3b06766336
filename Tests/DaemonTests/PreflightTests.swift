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

  @Test("more queue pairs than queues are refused, also with --force")
  func tooManyPairs() {
    let request = InterfaceRequest(queuePairs: 4, force: true)
    let settable = interface {
      $0.receiveQueues = .init(count: 2, most: 8, channelKind: "combined")
    }
    #expect(
      refusal(settable, request) == """
        eth1 has 2 queues, --queues=4 needs as many; run `ethtool -L eth1 combined 4` or use \
        --queues=2
        """)
    let fixed = interface { $0.receiveQueues = .init(count: 1, most: 1, channelKind: "rx") }
    #expect(refusal(fixed, request) == "eth1 has 1 queue, --queues=4 needs as many; use --queues=1")
  }

  @Test("queues without a socket that get packets are refused with the commands that cure it")
  func unservedQueues() {
    let spread = interface {
      $0.receiveQueues = .init(
        count: 8, most: 8, channelKind: "combined", hashed: Array(0..<8))
    }
    #expect(
      refusal(spread, InterfaceRequest(queuePairs: 2)) == """
        eth1 spreads packets over queues up to 7, --queues=2 serves 0 to 1 and the guest would \
        miss the rest; run `ethtool -L eth1 combined 2` or run `ethtool -X eth1 equal 2` or use \
        --queues=8, or accept it with --force
        """)
  }

  @Test("queues that the hash table leaves out need no socket")
  func restrictedHash() throws {
    let restricted = interface {
      $0.receiveQueues = .init(count: 8, most: 8, channelKind: "combined", hashed: [0, 1])
    }
    #expect(try Preflight(restricted, InterfaceRequest(queuePairs: 2)).warnings.isEmpty)
  }

  @Test("without a hash table every queue counts")
  func noHashTable() {
    let rx = interface { $0.receiveQueues = .init(count: 2, most: 4, channelKind: "rx") }
    #expect(refusal(rx).contains("serves only queue 0"))
    #expect(refusal(rx).contains("`ethtool -L eth1 rx 1` or use --queues=2"))
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

  @Test("an MTU beyond a chunk is refused with the largest that works", arguments: [3822, 3823])
  func largeMTU(mtu: Int) {
    let text = refusal(interface { $0.mtu = mtu })
    if mtu == 3822 {
      #expect(text.hasPrefix("accepted"))
    } else {
      #expect(text.contains("`ip link set eth1 mtu 3822`"))
    }
  }

  @Test("--force accepts every loss and says each")
  func force() throws {
    let bad = interface {
      $0.stripsVLAN = true
      $0.mtu = 9000
      $0.receiveQueues = .init(count: 2)
    }
    let warnings = try Preflight(bad, InterfaceRequest(force: true)).warnings
    #expect(warnings.count == 3)
    #expect(!warnings.contains { $0.contains("--force") })
  }

  @Test("--force does not take an interface from the host")
  func forceKeepsHost() {
    let used = interface { $0.hostUses[0].addresses = ["192.0.2.1/24"] }
    #expect(refusal(used, InterfaceRequest(force: true)).contains("--dedicated"))
  }

  @Test("--xdp-mode=native is refused on a veth whose other end has too large an MTU")
  func nativeOnVeth() throws {
    let veth = interface { $0.peer = .init(name: "eth2", leavesChecksums: false, mtu: 3507) }
    let native = InterfaceRequest(xdpMode: .native)
    #expect(refusal(veth, native).contains("`ip link set eth2 mtu 3506`"))
    #expect(try Preflight(veth, InterfaceRequest()).warnings.isEmpty)
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
