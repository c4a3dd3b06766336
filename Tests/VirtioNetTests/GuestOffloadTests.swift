// CTRL_GUEST_OFFLOADS, by a guest whose front-end forwards its control queue.
import GuestDriver
import HostPort
import Testing
import Virtqueue

@testable import VirtioNet

@Suite("Offloads that a driver switches")
struct GuestOffloadTests {
  @Test("offloads that the driver switches off end before it has its answer")
  func offloads() throws {
    let guest = try ForwardingGuest()
    let all: VirtioFeatures = [.guestCsum, .guestTSO4, .guestTSO6, .guestECN]
    let features = ForwardingGuest.features.union(all).union(.ctrlGuestOffloads)
    try guest.start(features: features)
    var generator = SeededGenerator(seed: 1)
    var flow = WireFlow(.tcp4, using: &generator)
    /// Lengths of what reaches the guest of two segments.
    func arrivals() throws -> [Int] {
      var got: [Int] = []
      guest.port[0].inject((0..<2).map { _ in flow.next([UInt8](repeating: 7, count: 500)) })
      let wanted = 2 * flow.headerLength + 1000
      #expect(
        try guest.eventually {
          got += try guest.takeReceived()
          return got.reduce(0, +) >= wanted - flow.headerLength
        })
      return got
    }
    func set(_ offloads: VirtioFeatures) throws -> UInt8? {
      try guest.command(
        [5, 0] + (0..<8).map { UInt8(truncatingIfNeeded: offloads.rawValue >> ($0 * 8)) })
    }
    let (one, merged) = (flow.headerLength + 500, flow.headerLength + 1000)
    #expect(try arrivals() == [merged], "on until the driver says otherwise")
    #expect(try set([]) == ForwardingGuest.ok)
    #expect(try arrivals() == [one, one])
    #expect(try set([.guestCsum, .guestTSO6]) == ForwardingGuest.ok)
    #expect(try arrivals() == [one, one])
    #expect(try set([.guestCsum, .guestUSO4]) == ForwardingGuest.error, "not negotiated")
    #expect(try arrivals() == [one, one])
    #expect(
      try guest.onControlThread { $0.controlState?.guestOffloads } == [.guestCsum, .guestTSO6])
    // A new memory table stops and starts every ring.
    try guest.front.setMemory(guest.ram)
    #expect(try arrivals() == [one, one])
    #expect(try set(all) == ForwardingGuest.ok)
    #expect(try arrivals() == [merged])
    #expect(try set([]) == ForwardingGuest.ok)
    try guest.front.tell(.resetDevice)
    try guest.start(features: features)
    #expect(try arrivals() == [merged], "a reset puts it back")
  }

  @Test("what a driver switched off on another host is off before its control queue runs here")
  func restored() throws {
    let device = try NetDevice(
      port: NullPort(queueCount: 1), queuePairs: 1, cpus: [],
      control: ControlOptions(address: ForwardingGuest.address)
    ) { _ in }
    defer { device.stop() }
    var state = ControlState(address: ForwardingGuest.address)
    state.guestOffloads = .guestCsum
    let all = VirtioFeatures.guestOffloads
    #expect(device.restore(state))
    #expect(device.guestOffloads == all, "nothing was negotiated")
    device.negotiate(all.union([.version1, .ctrlVq, .ctrlGuestOffloads]))
    #expect(device.guestOffloads == .guestCsum)
    device.reset()
    #expect(device.guestOffloads == all)
  }
}
