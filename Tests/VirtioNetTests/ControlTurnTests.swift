// For how long the control queue keeps the thread that serves it.
import Glibc
import GuestDriver
import GuestMemory
import HostPort
import Linux
import Packet
import Testing
import Virtqueue

@testable import VirtioNet

@Suite("Turns of the control queue")
struct ControlTurnTests {
  @Test("commands that take long give others their turn, and the rest of them is reported again")
  func turns() throws {
    // It logs what it refuses, and that takes its time here.
    let device = try NetDevice(
      port: NullPort(queueCount: 1), queuePairs: 1, cpus: [],
      control: ControlOptions(address: ForwardingGuest.address)
    ) { _ in usleep(15_000) }
    defer { device.stop() }
    let ram = try GuestRAM(bytes: 1 << 20)
    let features: VirtioFeatures = [.version1, .ctrlVq, .ctrlRx]
    let driver = DriverQueue(in: ram, size: 32, features: features)
    let kick = try EventDescriptor()
    device.negotiate(features)
    device.startQueue(driver.config(index: 2, memory: try ram.memory(), kick: kick))
    let all = 16
    for _ in 0..<all {
      let place = ram.allocate(3)
      ram.write([77, 0, 0], at: place)
      driver.add([.init(place, 3), .init(ram.allocate(1), 1, writable: true)])
    }
    if driver.publish() { kick.signal() }
    device.serveControlQueue()
    var done = try driver.allUsed().count
    #expect(1...6 ~= done, "20 ms and a little")
    var poller = pollfd(fd: device.controlDescriptor!, events: Int16(POLLIN), revents: 0)
    while unsafe poll(&poller, 1, 0) == 1 {
      device.serveControlQueue()
      done += try driver.allUsed().count
    }
    #expect(done == all)
    #expect(device.stopQueue(2) != nil)
  }
}
