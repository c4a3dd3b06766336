// Configuration space, with a front-end that forwards it.
import GuestDriver
import Packet
import Testing
import VhostUser
import VirtioNet
import Virtqueue

@Suite("Configuration space of the device")
struct ConfigurationSpaceTests {
  private let own = ForwardingGuest.address
  private let other = MACAddress("52:54:00:aa:00:01")!
  private let ok = ForwardingGuest.ok

  @Test("the link's state is shown, and its change told over the channel")
  func link() throws {
    var options = ControlOptions(address: own)
    options.speed = 10_000
    options.isFullDuplex = true
    let guest = try ForwardingGuest(options: options)
    try guest.start()
    #expect(try guest.status() == 1)
    #expect(try guest.readConfiguration(12, 5) == [0x10, 0x27, 0, 0, 1])
    #expect(try guest.readConfiguration(10, 2) == [0xdc, 5], "MTU 1500")
    try guest.onControlThread { $0.setCarrier(false) }
    #expect(try guest.nextNews() == 2)
    #expect(try guest.status() == 0)
    try guest.onControlThread { $0.setCarrier(true) }
    #expect(try guest.nextNews() == 2)
    #expect(try guest.status() == 1)
  }

  @Test("a guest that has moved here is asked to announce itself until it acknowledges")
  func announce() throws {
    let guest = try ForwardingGuest()
    try guest.start()
    try guest.front.tell(.sendRARP, own.bytes + [0, 0])
    #expect(try guest.nextNews() == 2)
    #expect(try guest.status() == 3)
    #expect(guest.eventually { guest.port[0].transmittedCount == 1 }, "and announced for it")
    #expect(try guest.command([3, 0]) == ok)
    #expect(try guest.status() == 1)
  }

  @Test("configuration space is written by legacy drivers only, and by a migration")
  func configurationWrites() throws {
    func access(_ offset: UInt8, _ bytes: [UInt8], restoring: Bool = false) -> [UInt8] {
      [offset, 0, 0, 0, UInt8(bytes.count), 0, 0, 0, restoring ? 1 : 0, 0, 0, 0] + bytes
    }
    let guest = try ForwardingGuest()
    #expect(throws: (any Error).self) {
      try guest.front.tell(.setConfig, access(0, other.bytes))
    }
    try guest.front.tell(.setConfig, access(0, other.bytes, restoring: true))
    #expect(try guest.readConfiguration(0, 6) == other.bytes)
    try guest.front.setFeatures([.mac, .ctrlVq, .protocolFeatures])
    try guest.front.tell(.setConfig, access(5, [0x77]))
    #expect(try guest.readConfiguration(0, 6) == other.bytes.dropLast() + [0x77])
    #expect(throws: (any Error).self) { try guest.front.tell(.setConfig, access(5, [1, 0])) }
    #expect(throws: (any Error).self) { try guest.front.tell(.setConfig, access(0, [1])) }
    #expect(try guest.readConfiguration(24, 16) == [UInt8](repeating: 0, count: 16))
    #expect(guest.front.protocolFeatures.contains(.config))
  }

  @Test("what a driver configured goes to another host with the device's state")
  func deviceState() throws {
    let guest = try ForwardingGuest()
    try guest.start()
    for command in [[0, 0, 0], [2, 0, 7, 0], [1, 1] + other.bytes] as [[UInt8]] {
      #expect(try guest.command(command) == ok)
    }
    let (bytes, state) = try guest.onControlThread { ($0.saveState(), $0.controlState) }
    /// Nil: taken over.
    func refusal(_ guest: ForwardingGuest, _ bytes: [UInt8]) throws -> DeviceStateError? {
      try guest.onControlThread { device in
        do throws(DeviceStateError) { try device.restoreState(bytes) } catch { return error }
        return nil
      }
    }
    let there = try ForwardingGuest()
    #expect(try refusal(there, []) == nil)
    #expect(try refusal(there, bytes.dropLast()) != nil)
    #expect(try there.onControlThread { $0.controlState } == ControlState(address: own))
    #expect(try refusal(there, bytes) == nil)
    let restored = try there.onControlThread { $0.controlState }
    #expect(restored?.receive == state?.receive && restored?.address == other)
    try there.start()
    #expect(try there.onControlThread { $0.controlState } == restored, "SET_FEATURES is no reset")

    var options = ControlOptions(address: own)
    options.steered = [own]
    let steered = try ForwardingGuest(options: options)
    let why = try refusal(steered, bytes)
    #expect(why?.description.contains("--mac") == true)
  }
}
