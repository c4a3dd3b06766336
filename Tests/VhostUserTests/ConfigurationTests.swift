// Configuration space as front-ends ask for it, and the news of it.
import Glibc
import Linux
import Testing
import Virtqueue

@testable import VhostUser

@Suite("Configuration space")
struct ConfigurationTests {
  private func front(
    _ configuration: [UInt8]? = Array(0..<24), protocol features: ProtocolFeatures? = nil
  ) throws -> ScriptedFrontEnd {
    let device = RecordingDevice()
    device.configuration = configuration
    let front = try ScriptedFrontEnd(device)
    try front.negotiate(protocol: features ?? device.offeredProtocolFeatures)
    return front
  }

  private func access(_ offset: UInt32, _ bytes: [UInt8], flags: UInt32 = 0) -> [UInt8] {
    var payload: [UInt8] = []
    for number in [offset, UInt32(bytes.count), flags] { payload.append(number: number) }
    return payload + bytes
  }

  @Test("CONFIG is offered by a device that has a configuration space, and only then taken")
  func offered() throws {
    let with = try front()
    #expect(try with.number(15).map { $0 >> 9 & 1 } == 1)
    #expect(with.back.protocolFeatures.contains(.config))
    let without = try front(nil, protocol: ProtocolFeatures.offered.union(.config))
    #expect(try without.number(15).map { $0 >> 9 & 1 } == 0)
    #expect(try without.send(24, access(0, [0])) == [], "refused: a header alone")
  }

  @Test("GET_CONFIG answers with offset, size and flags of the request, and the bytes")
  func get() throws {
    let front = try front()
    #expect(try front.send(24, access(6, [0, 0, 0])) == access(6, [6, 7, 8]))
    #expect(try front.send(24, access(0, [UInt8](repeating: 0, count: 24)))?.count == 12 + 24)
    #expect(
      try front.send(24, access(2, [0], flags: 1)) == access(2, [2], flags: 1),
      "some front-ends set the flag for writable fields here too")
  }

  @Test("GET_CONFIG beyond the space, or of a size that is not said, is refused by a header alone")
  func getBeyond() throws {
    let front = try front()
    #expect(try front.send(24, access(22, [0, 0, 0])) == [])
    #expect(try front.send(24, access(.max, [0])) == [])
    #expect(try front.send(24, access(0, [UInt8](repeating: 0, count: 300))) == [])
    #expect(try front.send(24, [1, 2, 3]) == [])
    #expect(!front.back.hasEnded)
    #expect(front.warnings.allSatisfy { $0.contains("GET_CONFIG") })
  }

  @Test("SET_CONFIG is carried out where the device lets a driver write, or a migration")
  func set() throws {
    let front = try front()
    #expect(try front.acknowledged(25, access(0, [9, 9])) == 0)
    #expect(front.device.configuration?.prefix(3) == [9, 9, 2])
    #expect(try front.acknowledged(25, access(6, [1])) == 1, "read-only")
    #expect(front.device.configuration?[6] == 6)
    #expect(try front.acknowledged(25, access(6, [1], flags: 1)) == 0, "of a migrated guest")
    #expect(front.device.configuration?[6] == 1)
    #expect(try front.acknowledged(25, access(0, [1], flags: 2)) == 1, "an unknown flag")
  }

  @Test("a change of the space is told over the channel, if CONFIG was negotiated")
  func change() throws {
    let front = try front()
    front.back.configurationChanged()
    var ends: [CInt] = [-1, -1]
    try checkedCall {
      unsafe socketpair(AF_UNIX, CInt(SOCK_STREAM.rawValue | SOCK_CLOEXEC.rawValue), 0, &ends)
    }
    let own = UnixSocket(adopting: OwnedDescriptor(adopting: ends[0]))
    let lent = OwnedDescriptor(adopting: ends[1])
    try front.send(21, descriptors: [lent.raw])
    front.back.configurationChanged()
    var buffer = [UInt8](repeating: 0, count: 64)
    var descriptors = ReceivedDescriptors()
    let got = try own.receive(into: &buffer, at: 0..<64, descriptors: &descriptors)
    #expect(got == .bytes(12), "no payload, and once")
    #expect(buffer.prefix(12) == [2, 0, 0, 0, 1, 0, 0, 0, 0, 0, 0, 0])

    try front.send(16, bytes(ProtocolFeatures.replyAck.rawValue))
    front.back.configurationChanged()
    let more = try own.receive(into: &buffer, at: 0..<64, descriptors: &descriptors)
    #expect(more == .wouldBlock)
  }

  @Test("a control queue is a ring more, and GET_QUEUE_NUM counts virtqueues with it")
  func rings() throws {
    #expect(try front(nil).number(17) == 2)
    let front = try front()
    #expect(try front.number(17) == 5)
    try front.shareMemory()
    try front.setUp(4)
    #expect(front.back.startedRings == [4])
    #expect(try front.acknowledged(8, state(5, 64)) == 1)
  }

  @Test("the device is reset with RESET_DEVICE, status 0 and the session's end")
  func resets() throws {
    let front = try front()
    let begun = front.device.beginnings
    #expect(front.device.resets == 0)
    try front.send(34)
    #expect(front.device.resets == 1)
    try front.send(39, bytes(0))
    #expect(front.device.resets == 2)
    try front.negotiate()
    #expect(front.device.beginnings == begun + 1, "no ring is set up")
    try front.shareMemory()
    try front.setUp(0)
    try front.negotiate()
    #expect(front.device.beginnings == begun + 1, "a feature that changes under way is no reset")
    front.hangUp()
    front.run()
    #expect(front.device.resets == 3)
  }
}
