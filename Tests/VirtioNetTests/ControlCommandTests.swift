// Commands of the control queue as bytes, and what a driver configured as bytes.
import GuestDriver
import Packet
import Testing
import Virtqueue

@testable import VirtioNet

@Suite("Commands of the control queue")
struct ControlCommandTests {
  private static let all: VirtioFeatures = [
    .ctrlVq, .ctrlRx, .ctrlRxExtra, .ctrlVlan, .ctrlMacAddr, .guestAnnounce, .mq,
    .ctrlGuestOffloads, .guestCsum, .guestTSO4,
  ]

  private func outcome(
    _ bytes: [UInt8], _ features: VirtioFeatures = all
  ) -> Result<ControlCommand, ControlCommand.Refusal> {
    Result { () throws(ControlCommand.Refusal) in try ControlCommand(bytes, features: features) }
  }

  private let one = MACAddress("52:54:00:12:34:56")!
  private let group = MACAddress("33:33:00:00:00:01")!

  @Test("each command is read from its bytes")
  func read() {
    for (number, chosen) in ControlCommand.Switch.allCases.enumerated() {
      #expect(outcome([0, UInt8(number), 1]) == .success(.receive(chosen, true)))
      #expect(outcome([0, UInt8(number), 0]) == .success(.receive(chosen, false)))
    }
    #expect(
      outcome([1, 0, 1, 0, 0, 0] + one.bytes + [2, 0, 0, 0] + group.bytes + group.bytes)
        == .success(.tables(unicast: [one], multicast: [group, group])))
    #expect(
      outcome([1, 0, 0, 0, 0, 0, 0, 0, 0, 0]) == .success(.tables(unicast: [], multicast: [])))
    #expect(outcome([1, 1] + one.bytes) == .success(.address(one)))
    #expect(outcome([2, 0, 0xff, 0x0f]) == .success(.vlan(4095, isWanted: true)))
    #expect(outcome([2, 1, 0, 0]) == .success(.vlan(0, isWanted: false)))
    #expect(outcome([3, 0]) == .success(.announced))
    #expect(outcome([4, 0, 2, 1]) == .success(.queuePairs(258)))
    #expect(
      outcome([5, 0, 0x82, 0, 0, 0, 0, 0, 0, 0])
        == .success(.guestOffloads([.guestCsum, .guestTSO4])))
    #expect(outcome([5, 0, 0, 0, 0, 0, 0, 0, 0, 0]) == .success(.guestOffloads([])))
  }

  @Test("a wrong size is refused, also where a table says more than there is")
  func sizes() {
    let right: [[UInt8]] = [
      [0, 0, 1], [1, 0, 0, 0, 0, 0, 0, 0, 0, 0], [1, 1] + one.bytes, [2, 0, 1, 0], [3, 0],
      [4, 0, 1, 0], [5, 0, 0, 0, 0, 0, 0, 0, 0, 0],
    ]
    for bytes in right {
      #expect(outcome(bytes + [0]) == .failure(.wrongSize), "\(bytes)")
      #expect(outcome(bytes.dropLast()) == .failure(.wrongSize), "\(bytes)")
    }
    #expect(outcome([]) == .failure(.wrongSize))
    #expect(outcome([1, 0, 0xff, 0xff, 0xff, 0xff, 0, 0, 0, 0]) == .failure(.wrongSize))
    #expect(outcome([1, 0, 1, 0, 0, 0, 0, 0, 0, 0]) == .failure(.wrongSize))
    #expect(
      outcome([1, 0, 1, 0, 0, 0] + one.bytes + [1, 0, 0, 0] + one.bytes.dropLast())
        == .failure(.wrongSize))
  }

  @Test("values out of range are refused")
  func values() {
    #expect(outcome([0, 0, 2]) == .failure(.wrongValue))
    #expect(outcome([2, 0, 0, 0x10]) == .failure(.wrongValue), "VLAN 4096")
    #expect(outcome([1, 1] + group.bytes) == .failure(.wrongValue))
    #expect(outcome([1, 1, 0, 0, 0, 0, 0, 0]) == .failure(.wrongValue))
    #expect(outcome([1, 0, 1, 0, 0, 0] + group.bytes + [0, 0, 0, 0]) == .failure(.wrongValue))
    #expect(outcome([1, 0, 0, 0, 0, 0, 1, 0, 0, 0] + one.bytes) == .failure(.wrongValue))
    #expect(
      outcome([5, 0, 0, 1, 0, 0, 0, 0, 0, 0]) == .failure(.wrongValue), "TSO6: not negotiated")
    #expect(outcome([5, 0, 1, 0, 0, 0, 0, 0, 0, 0]) == .failure(.wrongValue), "not on receive")
  }

  @Test("unknown classes and commands are refused, and those of features not negotiated")
  func unknown() {
    let unknown: [[UInt8]] = [
      [0, 6, 1], [1, 2] + one.bytes, [2, 2, 1, 0], [3, 1], [4, 1, 1, 0], [4, 2, 1, 0],
      [5, 1, 0, 0, 0, 0, 0, 0, 0, 0], [6, 0, 0], [255, 255],
    ]
    for bytes in unknown { #expect(outcome(bytes) == .failure(.unknown), "\(bytes)") }
    let needs: [(VirtioFeatures, [UInt8])] = [
      (.ctrlRx, [0, 0, 1]), (.ctrlRx, [0, 1, 1]), (.ctrlRxExtra, [0, 2, 1]),
      (.ctrlRxExtra, [0, 5, 1]), (.ctrlRx, [1, 0, 0, 0, 0, 0, 0, 0, 0, 0]),
      (.ctrlMacAddr, [1, 1] + one.bytes), (.ctrlVlan, [2, 0, 1, 0]), (.guestAnnounce, [3, 0]),
      (.mq, [4, 0, 1, 0]), (.ctrlGuestOffloads, [5, 0, 0, 0, 0, 0, 0, 0, 0, 0]),
    ]
    for (feature, bytes) in needs {
      #expect(outcome(bytes, ControlCommandTests.all.subtracting(feature)) == .failure(.unknown))
    }
  }

  @Test("any bytes are a command or refused", arguments: 0..<20)
  func anyBytes(seed: UInt64) {
    var random = SeededGenerator(seed: seed)
    var accepted = 0
    for _ in 0..<2000 {
      var bytes = (0..<Int.random(in: 0..<24, using: &random)).map { _ in
        UInt8.random(in: 0...255, using: &random)
      }
      // Near to what is right.
      let limits: [UInt8] = [6, 7, 2, 16]
      for (i, limit) in limits.enumerated() where i < bytes.count { bytes[i] %= limit }
      if case .success = outcome(bytes) { accepted += 1 }
    }
    #expect(accepted > 0)
  }

  @Test("what a driver configured survives being saved", arguments: 0..<20)
  func saved(seed: UInt64) throws {
    var random = SeededGenerator(seed: seed)
    var state = ControlState(address: one)
    for chosen in ControlCommand.Switch.allCases {
      state.receive.set(chosen, .random(using: &random))
    }
    func some(_ first: UInt8) -> [MACAddress] {
      (0..<Int.random(in: 0...300, using: &random)).map { i in
        MACAddress(bytes: [first, 0, 0, 0, UInt8(i >> 8), UInt8(i & 255)])!
      }
    }
    state.receive.setTables(unicast: some(2), multicast: some(1))
    for _ in 0..<50 { state.receive.setVLAN(.random(in: 0..<4096, using: &random), true) }
    state.queuePairs = .random(in: 1...128, using: &random)
    if seed % 2 == 1 { state.guestOffloads = [.guestCsum, .guestUSO6] }
    #expect(state.encoded[0] == (seed % 2 == 0 ? 1 : 2), "older daemons read what they can")
    #expect(try #require(ControlState(decoding: state.encoded)) == state)

    var bytes = state.encoded
    for _ in 0..<100 {
      bytes[.random(in: 0..<min(bytes.count, 40), using: &random)] = .random(
        in: 0...255, using: &random)
      if let changed = ControlState(decoding: bytes) { #expect(changed.encoded == bytes) }
      bytes = state.encoded
    }
    #expect(ControlState(decoding: bytes.dropLast()) == nil)
    #expect(ControlState(decoding: bytes + [0]) == nil)
    #expect(ControlState(decoding: []) == nil)
  }
}
