// A transmit virtqueue with its driver, and a port whose wire is the test.
import GuestDriver
import GuestMemory
import HostPort
import Testing
import VirtioNet
import Virtqueue

struct TransmitFixture {
  let ram: GuestRAM
  let driver: any RingDriver
  let port: ScriptedPort
  let queue: any HostPortQueue
  let counters = RingCounters()
  let path: TransmitPath
  let headerLength: Int

  /// - Parameter other: the queue that is transmitted by in place of the scripted one.
  init(
    features: VirtioFeatures = [.version1, .ringIndirectDesc], size: Int = 256,
    ram: GuestRAM? = nil, start: UInt16 = 0, isEnabled: Bool = true,
    port options: ScriptedPort.Options = .init(), on other: (any HostPortQueue)? = nil
  ) throws {
    self.ram = try ram ?? GuestRAM(bytes: 8 << 20)
    driver = ringDriver(in: self.ram, size: size, features: features, start: start)
    port = try ScriptedPort(options)
    queue = try other ?? port.openQueue(0)
    path = try TransmitPath(
      driver.config(index: 1, memory: try self.ram.memory(), isEnabled: isEnabled), port: queue,
      counters: counters)
    headerLength = features.contains(.version1) || features.contains(.mrgRxbuf) ? 12 : 10
  }

  /// For tests of the split format: its fields.
  var split: DriverQueue { driver as! DriverQueue }

  /// Offers one packet behind a header of zeros, in the given layout.
  func offer(_ frame: [UInt8], as layout: ChainLayout) {
    let buffers = layout.place(in: ram)
    ram.scatter([UInt8](repeating: 0, count: headerLength) + frame, over: buffers)
    driver.add(buffers, direct: layout.direct)
    driver.publish()
  }

  /// Offers any bytes as one descriptor.
  func offerRaw(_ bytes: [UInt8]) {
    let address = ram.allocate(max(1, bytes.count), alignment: 1)
    ram.write(bytes, at: address)
    driver.add([DriverQueue.Buffer(address, UInt32(bytes.count))])
    driver.publish()
  }

  /// Runs until nothing moves; returns what left.
  func drain() -> [[UInt8]] {
    while path.run() > 0 { _ = queue.flush() }
    _ = queue.flush()
    return port[0].takeTransmitted()
  }
}

/// A frame whose bytes tell where they belong.
func frame(_ length: Int, seed: UInt64 = 1) -> [UInt8] {
  var generator = SeededGenerator(seed: seed)
  return (0..<length).map { _ in UInt8.random(in: 0...255, using: &generator) }
}
