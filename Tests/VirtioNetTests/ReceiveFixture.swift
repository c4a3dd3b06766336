// A receive virtqueue with its driver, and a port from which the test lets frames arrive.
import GuestDriver
import GuestMemory
import HostPort
import Testing
import VirtioNet
import Virtqueue

struct ReceiveFixture {
  let ram: GuestRAM
  let driver: any RingDriver
  let port: ScriptedPort
  let counters = RingCounters()
  let path: ReceivePath
  let feed: ReceiveFeed
  let filter = ReceiveFilter()
  let headerLength: Int
  /// The buffers of each chain, by head.
  private(set) var buffers: [UInt16: [DriverQueue.Buffer]] = [:]

  init(
    features: VirtioFeatures = [.version1, .mrgRxbuf, .ringIndirectDesc], size: Int = 256,
    ram: GuestRAM? = nil, start: UInt16 = 0, port options: ScriptedPort.Options = .init()
  ) throws {
    self.ram = try ram ?? GuestRAM(bytes: 8 << 20)
    driver = ringDriver(in: self.ram, size: size, features: features, start: start)
    port = try ScriptedPort(options)
    path = try ReceivePath(
      driver.config(memory: try self.ram.memory()), counters: counters)
    feed = ReceiveFeed(try port.openQueue(0), counters: counters, filter: filter)
    feed.route(to: path)
    headerLength = features.contains(.version1) || features.contains(.mrgRxbuf) ? 12 : 10
  }

  /// Offers one chain of buffers of these sizes.
  mutating func offer(_ lengths: [Int], direct: Int? = nil) throws {
    let placed = ChainLayout("", lengths).place(in: ram, writable: true)
    let head = try #require(driver.add(placed, direct: direct))
    buffers[head] = placed
    driver.publish()
  }

  /// Offers one buffer at a place of the test's choice.
  mutating func offer(_ length: Int, at address: GuestAddress) throws {
    let buffer = DriverQueue.Buffer(address, UInt32(length), writable: true)
    let head = try #require(driver.add([buffer]))
    buffers[head] = [buffer]
    driver.publish()
  }

  /// Runs until nothing moves.
  func pump() { while feed.turn() > 0 {} }

  /// What a driver makes of the used ring: the number of buffers of each packet, and its bytes.
  mutating func collect() throws -> [(bufferCount: Int, frame: [UInt8])] {
    try collectWithHeaders().map { packet in
      #expect(packet.header.prefix(10).allSatisfy { $0 == 0 })
      return (packet.header.count < 12 ? 1 : Int(packet.header[10]), packet.frame)
    }
  }

  /// As above, with the header of each packet.
  mutating func collectWithHeaders() throws -> [(header: [UInt8], frame: [UInt8])] {
    var packets: [([UInt8], [UInt8])] = []
    while let first = try driver.nextUsed() {
      var bytes = ram.gather(try #require(buffers[first.head]), count: Int(first.length))
      let header = bytes.prefix(headerLength)
      let count = headerLength == 12 ? Int(header[10]) | Int(header[11]) << 8 : 1
      for _ in 1..<max(count, 1) {
        let next = try #require(try driver.nextUsed(), "num_buffers promises more")
        bytes += ram.gather(try #require(buffers[next.head]), count: Int(next.length))
      }
      packets.append((Array(header), Array(bytes.dropFirst(headerLength))))
    }
    return packets
  }
}
