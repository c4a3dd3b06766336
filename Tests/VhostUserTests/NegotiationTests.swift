import GuestMemory
import Linux
import Testing
import Virtqueue

@testable import VhostUser

@Suite("Negotiation")
struct NegotiationTests {
  @Test("offered are the device's features and PROTOCOL_FEATURES")
  func offered() throws {
    let front = try ScriptedFrontEnd()
    #expect(
      try front.number(1) == front.device.offeredFeatures.union(.protocolFeatures).rawValue)
    #expect(try front.number(15) == ProtocolFeatures.offered.rawValue)
  }

  @Test("acknowledged features replace the ones before; those not offered are dropped")
  func featuresReplace() throws {
    let front = try ScriptedFrontEnd()
    try front.send(2, bytes(VirtioFeatures([.version1, .mrgRxbuf, .hostTSO4]).rawValue))
    #expect(front.device.takeEvents() == [.negotiate([.version1, .mrgRxbuf])])
    #expect(front.warnings.count == 1)
    #expect(front.warnings[0].contains("HOST_TSO4"))
    try front.send(2, bytes(VirtioFeatures([.anyLayout]).rawValue))
    #expect(front.device.takeEvents() == [.negotiate([.anyLayout])])
    try front.send(2, bytes(VirtioFeatures([.anyLayout]).rawValue))
    #expect(front.device.takeEvents() == [], "no change is no news")
  }

  @Test("protocol features replace the ones before; those not offered are dropped")
  func protocolFeaturesReplace() throws {
    let front = try ScriptedFrontEnd()
    try front.send(16, bytes(ProtocolFeatures([.replyAck, .config]).rawValue))
    #expect(front.back.protocolFeatures == .replyAck)
    #expect(front.warnings.contains { $0.contains("CONFIG") })
    try front.send(16, bytes(ProtocolFeatures.mq.rawValue))
    #expect(front.back.protocolFeatures == .mq)
  }

  @Test("a reply is sent when it is asked for and REPLY_ACK was negotiated")
  func replyAck() throws {
    let front = try ScriptedFrontEnd()
    #expect(try front.acknowledged(3) == nil)
    // It counts for the message that negotiates it.
    #expect(try front.acknowledged(16, bytes(ProtocolFeatures.replyAck.rawValue)) == 0)
    #expect(try front.acknowledged(3) == 0)
    #expect(try front.send(3) == nil)
    #expect(try front.send(1, needReply: true)?.count == 8, "an answer of its own comes once")
  }

  @Test("a refused request is answered with 1 and the connection lives")
  func negativeAcknowledge() throws {
    let front = try ScriptedFrontEnd()
    try front.negotiate()
    #expect(try front.acknowledged(8, state(0, 300)) == 1)
    #expect(try front.acknowledged(8, bytes(1, 2)) == 1)
    #expect(try front.acknowledged(77, [1, 2, 3]) == 1)
    #expect(try front.acknowledged(3) == 0)
    #expect(!front.back.hasEnded)
  }

  @Test("an unknown request is logged once, other refusals until there are too many")
  func logLimits() throws {
    let front = try ScriptedFrontEnd()
    for _ in 0..<5 { try front.send(77) }
    #expect(front.warnings.count == 1)
    for _ in 0..<100 { try front.send(8, state(0, 300)) }
    #expect(front.warnings.count == 1 + BackEnd.loggedRefusals + 1)
    #expect(front.warnings.last == "warning: further refusals are not logged")
  }

  @Test("a front-end that goes on offering nonsense, or changing its mind, does not fill the log")
  func flood() throws {
    let front = try ScriptedFrontEnd()
    try front.negotiate()
    try front.shareMemory()
    try front.setUp(0)
    for i in 0..<500 {
      try front.send(2, bytes(VirtioFeatures([.version1, .hostTSO4]).rawValue))
      try front.send(2, bytes(VirtioFeatures([i % 2 == 0 ? .mrgRxbuf : .version1]).rawValue))
    }
    // The 500 may take a second or two, each of which allows one line more.
    #expect((1...LogLimit.burst + 20).contains(front.warnings.count + front.summaries.count))
  }

  @Test("nor does one that comes again and again")
  func floodOfSessions() throws {
    let limit = LogLimit()
    var lines = 0
    for _ in 0..<100 {
      let front = try ScriptedFrontEnd(limit: limit)
      try front.negotiate()
      try front.shareMemory()
      try front.setUp(0)
      for _ in 0..<5 { try front.send(8, state(0, 300)) }
      #expect(front.warnings.count <= 5)
      lines += front.warnings.count + front.summaries.count
    }
    #expect((LogLimit.burst...LogLimit.burst + 20).contains(lines))
  }

  @Test("queue pairs are counted, and memory slots are as many as the table takes")
  func counts() throws {
    let front = try ScriptedFrontEnd()
    #expect(try front.number(17) == 2)
    #expect(try front.number(36) == 509)
  }

  @Test("requests of features that are not offered are refused in the form that they wait for")
  func refusedForms() throws {
    let front = try ScriptedFrontEnd()
    try front.negotiate(protocol: .replyAck)
    let opaque = [UInt8](repeating: 0, count: 12)
    #expect(try front.send(24, opaque) == [], "GET_CONFIG: an empty payload is an error")
    #expect(try front.acknowledged(25, opaque) == 1)
    #expect(try front.send(22, opaque) == bytes(1))
    #expect(try front.send(28) == [])
    #expect(try front.send(30) == bytes(1))
    let area = [UInt8](repeating: 9, count: 24)
    #expect(try front.send(31, area) == [UInt8](repeating: 0, count: 24))
    #expect(try front.send(42, bytes(0), descriptors: [0]) == bytes(0x101))
    #expect(try front.send(43) == bytes(1))
    #expect(try front.acknowledged(6, bytes(0, 0)) == 1)
    for request in [23, 32, 35] as [UInt32] {
      #expect(try front.acknowledged(request, bytes(0)) == 1, "\(request)")
      #expect(try front.send(request, bytes(0)) == nil)
    }
    for request in [7, 29] as [UInt32] {
      #expect(try front.acknowledged(request) == 1, "\(request)")
      #expect(try front.send(request) == nil)
    }
    #expect(!front.back.hasEnded)
    #expect(front.warnings.contains { $0.contains("SET_LOG_BASE needs LOG_SHMFD") })
  }

  @Test("requests of a protocol feature need its negotiation")
  func requirements() throws {
    let front = try ScriptedFrontEnd()
    try front.send(16, bytes(ProtocolFeatures.replyAck.rawValue))
    let file = try memoryFile(1 << 20)
    #expect(
      try front.acknowledged(
        37, bytes(0) + region(.megabyte), descriptors: [file.raw]) == 1)
    #expect(try front.acknowledged(39, bytes(1)) == 1)
    #expect(front.warnings.contains { $0.contains("ADD_MEM_REG needs CONFIGURE_MEM_SLOTS") })
  }

  @Test("an MTU is taken up to what the host port carries, else the remedy is named")
  func mtu() throws {
    let front = try ScriptedFrontEnd()
    try front.negotiate()
    #expect(try front.acknowledged(20, bytes(1500)) == 0)
    #expect(try front.acknowledged(20, bytes(1501)) == 1)
    #expect(front.warnings.last!.contains("host_mtu=1500"))
    #expect(try front.acknowledged(20, bytes(67)) == 1)
  }

  @Test("SEND_RARP announces the six bytes of the payload")
  func rarp() throws {
    let front = try ScriptedFrontEnd()
    try front.send(19, [0x52, 0x54, 0, 1, 2, 3, 0, 0])
    #expect(front.device.takeEvents() == [.announce([0x52, 0x54, 0, 1, 2, 3])])
  }

  @Test("a device status is kept, and zero resets the device but for memory and wiring")
  func statusReset() throws {
    let front = try ScriptedFrontEnd()
    try front.negotiate()
    try front.shareMemory()
    try front.setUp(0)
    try front.send(39, bytes(0xf))
    #expect(try front.number(40) == 0xf)
    #expect(try front.acknowledged(39, bytes(256)) == 1)
    _ = front.device.takeEvents()

    try front.send(39, bytes(0))
    #expect(front.device.takeEvents() == [.stop(0), .negotiate([])])
    #expect(try front.number(40) == 0)
    #expect(front.back.memory.regions.count == 1)
    #expect(front.back.rings[0].call != nil)
    #expect(front.back.rings[0].kick == nil)
    #expect(!front.back.rings[0].isEnabled)
    #expect(
      front.back.protocolFeatures
        == ProtocolFeatures.offered.subtracting([.gpaAddresses, .inbandNotifications]))
  }

  @Test("RESET_DEVICE stops and forgets the rings; GET_VRING_BASE still answers")
  func resetDevice() throws {
    let front = try ScriptedFrontEnd()
    try front.negotiate()
    try front.shareMemory()
    try front.setUp(0, base: 7)
    try front.setUp(1)
    _ = front.device.takeEvents()
    #expect(try front.acknowledged(34) == 0)
    #expect(front.device.takeEvents() == [.stop(0), .stop(1), .negotiate([])])
    #expect(try front.send(11, state(0, 0)) == state(0, 0))
  }

  @Test("RESET_OWNER disables the rings")
  func resetOwner() throws {
    let front = try ScriptedFrontEnd()
    try front.negotiate()
    try front.shareMemory()
    try front.setUp(1)
    _ = front.device.takeEvents()
    try front.send(4)
    #expect(front.device.takeEvents() == [.stop(1), .start(1, base: 0, enabled: false)])
  }

  @Test("SET_BACKEND_REQ_FD is held until it is replaced or the session ends")
  func channel() throws {
    let front = try ScriptedFrontEnd()
    try front.negotiate()
    let first = try Pipe()
    let second = try Pipe()
    #expect(try front.acknowledged(21, descriptors: [first.writeEnd!.raw]) == 0)
    first.writeEnd = nil
    #expect(first.isOpen)
    #expect(try front.acknowledged(21, descriptors: [second.writeEnd!.raw]) == 0)
    second.writeEnd = nil
    #expect(first.isClosed)
    #expect(second.isOpen)
    front.hangUp()
    front.run()
    #expect(second.isClosed)
  }

  @Test("the connection is described by name when a ring starts, and again when it differs")
  func summary() throws {
    let front = try ScriptedFrontEnd()
    try front.negotiate([.version1, .mrgRxbuf], protocol: [.mq, .replyAck])
    try front.shareMemory()
    #expect(front.summaries == [])
    try front.setUp(0)
    try front.setUp(1)
    #expect(
      front.summaries == [
        "virtio features: MRG_RXBUF VERSION_1; vhost-user features: MQ REPLY_ACK; no-linear-tx"
      ])
    try front.send(2, bytes(VirtioFeatures([.mrgRxbuf, .protocolFeatures]).rawValue))
    #expect(
      front.summaries.dropFirst() == [
        "virtio features: MRG_RXBUF; vhost-user features: MQ REPLY_ACK"
      ])
  }

  @Test("ANY_LAYOUT alone is no-linear-tx too")
  func anyLayout() throws {
    let front = try ScriptedFrontEnd()
    try front.negotiate([.anyLayout])
    #expect(front.back.connectionSummary.hasSuffix("; no-linear-tx"))
  }
}
