// What is read of real interfaces, in namespaces of the tests' own.
import Glibc
import Linux
import Testing

@Suite("Interface", .enabled(if: NetworkNamespace.isAvailable, "needs root"))
struct InterfaceTests {
  @Test("a name that nobody has reads as nothing, and the others are listed")
  func missing() throws {
    let (found, names) = try NetworkNamespace.run {
      try run("ip link add dmn0 type veth peer name dmn1")
      return (try Interface.read("dmn9"), try Interface.names())
    }
    #expect(found == nil)
    #expect(Set(names).isSuperset(of: ["lo", "dmn0", "dmn1"]))
  }

  @Test("a veth end is read with its peer, unused by the host")
  func veth() throws {
    let veth = try #require(
      try NetworkNamespace.run {
        try run("ip link add dmn0 address 02:00:00:00:00:0a type veth peer name dmn1 mtu 1400")
        try run("ip link set dmn0 mtu 1300")
        return try Interface.read("dmn0")
      })
    #expect(veth.isEthernet && !veth.isUp)
    #expect(veth.driver == "veth")
    #expect(veth.mtu == 1300)
    #expect(veth.hardwareAddress == [2, 0, 0, 0, 0, 10])
    #expect(veth.peer == .init(name: "dmn1", leavesChecksums: true, mtu: 1400))
    #expect(veth.hostUses == [.init(device: "dmn0")])
    #expect(veth.receiveQueues.count == 1)
    #expect(veth.queuesWithTraffic == [0])
  }

  @Test("queues are those in use, not those allocated")
  func queues() throws {
    let queues = try #require(
      try NetworkNamespace.run {
        try run(
          "ip link add dmn0 numrxqueues 4 numtxqueues 4 type veth peer name dmn1 "
            + "numrxqueues 4 numtxqueues 4")
        try run("ethtool -L dmn0 rx 3 tx 2")
        return try Interface.read("dmn0")
      }
    ).receiveQueues
    #expect(queues == .init(count: 3, most: 4, channelKind: "rx", hashed: nil))
  }

  @Test("a peer that fills in checksums is told from one that does not")
  func filledChecksums() throws {
    let veth = try NetworkNamespace.run {
      try run("ip link add dmn0 type veth peer name dmn1")
      try run("ethtool -K dmn1 tx off")
      return try Interface.read("dmn0")
    }
    #expect(veth?.peer?.leavesChecksums == false)
    #expect(veth?.segmentsTCP == true)
  }

  @Test("an interface that cuts large packets is told from one that does not")
  func segmentation() throws {
    let found = try NetworkNamespace.run {
      try run("ip link add dmn0 type veth peer name dmn1")
      let before = try Interface.read("dmn0")?.segmentsTCP
      try run("ethtool -K dmn0 tso off")
      return [before, try Interface.read("dmn0")?.segmentsTCP]
    }
    #expect(found == [true, false])
  }

  @Test("a peer in another namespace is asked there", arguments: [true, false])
  func distantPeer(leavesChecksums: Bool) throws {
    let name = "dmn-\(getpid())-\(leavesChecksums)"
    try run("ip netns add \(name)")
    defer { try? run("ip netns del \(name)") }
    let veth = try NetworkNamespace.run {
      try run("ip link add dmn0 type veth peer name dmn1 netns \(name)")
      try run("ip netns exec \(name) ethtool -K dmn1 tx \(leavesChecksums ? "on" : "off")")
      return try Interface.read("dmn0")
    }
    #expect(veth?.peer == .init(name: "dmn1", leavesChecksums: leavesChecksums, mtu: 1500))
  }

  @Test("addresses of both families and default routes are the host's use; link-local is not")
  func hostUse() throws {
    let uses = try NetworkNamespace.run {
      try run("ip link add dmn0 type veth peer name dmn1")
      try run("ip link set dmn0 up")
      try run("ip link set dmn1 up")
      let before = try Interface.read("dmn0")?.hostUses
      try run("ip address add 192.0.2.1/24 dev dmn0")
      try run("ip address add 2001:db8::1/64 dev dmn0 nodad")
      try run("ip route add default via 192.0.2.254")
      let after = try Interface.read("dmn0")?.hostUses
      let peer = try Interface.read("dmn1")?.hostUses
      return [before, after, peer]
    }
    #expect(uses[0] == [.init(device: "dmn0")])
    #expect(
      uses[1] == [
        .init(
          device: "dmn0", addresses: ["192.0.2.1/24", "2001:db8::1/64"], hasDefaultRoute: true)
      ])
    #expect(uses[2] == [.init(device: "dmn1")])
  }

  @Test("an IPv6 default route and one of several hops are seen")
  func otherDefaultRoutes() throws {
    let routed = try NetworkNamespace.run {
      for name in ["dmn0", "dmn2"] {
        try run("ip link add \(name) type veth peer name \(name)p")
        try run("ip link set \(name) up")
        try run("ip link set \(name)p up")
      }
      try run("ip address add 192.0.2.1/24 dev dmn0")
      try run("ip address add 198.51.100.1/24 dev dmn2")
      try run("ip route add default nexthop via 192.0.2.254 nexthop via 198.51.100.254")
      let multipath = try Interface.read("dmn2")?.hostUses.first?.hasDefaultRoute
      try run("ip route del default")
      let none = try Interface.read("dmn2")?.hostUses.first?.hasDefaultRoute
      try run("ip -6 route add default via fe80::1 dev dmn2")
      let six = try Interface.read("dmn2")?.hostUses.first?.hasDefaultRoute
      return [multipath, none, six]
    }
    #expect(routed == [true, false, true])
  }

  @Test("devices on top count, also on top of those")
  func stacked() throws {
    let uses = try NetworkNamespace.run {
      try run("ip link add dmn0 type veth peer name dmn1")
      try run("ip link add dmnbr type bridge")
      try run("ip link set dmn0 master dmnbr")
      try run("ip link add link dmnbr name dmnmv type macvlan")
      try run("ip address add 192.0.2.1/24 dev dmnmv")
      return try Interface.read("dmn0")?.hostUses
    }
    #expect(
      uses == [
        .init(device: "dmn0"), .init(device: "dmnbr"),
        .init(device: "dmnmv", addresses: ["192.0.2.1/24"]),
      ])
  }

  @Test("an interface is brought up, and promiscuous as long as the membership lives")
  func control() throws {
    let seen = try NetworkNamespace.run {
      try run("ip link add dmn0 type veth peer name dmn1")
      try Interface.bringUp("dmn0")
      let up = try #require(try Interface.read("dmn0"))
      let during: Bool
      do {
        let membership = try PromiscuousMembership(interfaceIndex: up.index)
        during = try isPromiscuous("dmn0")
        _ = consume membership
      }
      // A child that another test starts at this moment holds our descriptors until it runs.
      var after = true
      for _ in 0..<100 where after {
        after = try isPromiscuous("dmn0")
        usleep(10_000)
      }
      return [up.isUp, during, after]
    }
    #expect(seen == [true, true, false])
  }

  @Test("bringing up what does not exist fails, also a name that is too long")
  func noSuchInterface() throws {
    try NetworkNamespace.run {
      #expect(throws: Errno(ENODEV)) { try Interface.bringUp("dmn9") }
      #expect(throws: Errno(ENODEV)) { try Interface.bringUp("a-name-of-16-byte") }
    }
  }
}

private func isPromiscuous(_ name: String) throws -> Bool {
  let child = try Child(["ip", "-d", "link", "show", name])
  _ = child.wait()
  return child.output.contains("promiscuity 1")
}
