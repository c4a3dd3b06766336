// The driver's side of one ring: the same batch of buffers, again and again.
import GuestDriver
import GuestMemory
import Virtqueue

final class GuestQueue {
  /// Of the port, and of a turn.
  static let batch = 64

  let config: VirtqueueConfig
  private let driver: any RingDriver
  private var chains: [[DriverQueue.Buffer]] = []
  private var next = 0

  init(_ row: Row, _ pair: Int, _ ram: GuestRAM, _ features: VirtioFeatures) throws {
    driver =
      features.contains(.ringPacked)
      ? PackedDriverQueue(in: ram, size: row.ring, features: features)
      : DriverQueue(in: ram, size: row.ring, features: features)
    config = driver.config(
      index: 2 * pair + (row.direction == .transmit ? 1 : 0), memory: try ram.memory())
    let writable = row.direction == .receive
    let bytes = 12 + row.size
    // A receive chain of several pieces is several chains: that is what mergeable buffers are for.
    let room = writable && row.pieces == 1 ? 2048 : (bytes + row.pieces - 1) / row.pieces
    var generator = SeededGenerator(seed: 1)
    for _ in 0..<row.ring {
      var chain: [DriverQueue.Buffer] = []
      var left = bytes
      for _ in 0..<row.pieces where writable || left > 0 {
        let region = ram.descriptions[Int.random(in: 0..<row.regions, using: &generator)]
        let page = UInt64.random(in: 64..<region.size / 4096 - 1, using: &generator) * 4096
        chain.append(
          .init(
            GuestAddress(region.guest.value + page),
            UInt32(writable ? room : min(room, left)), writable: writable))
        left -= room
      }
      chains.append(chain)
    }
    chainsPerPacket = writable ? row.pieces : 1
    driver.disableCalls()
  }
  private let chainsPerPacket: Int

  /// Offers what a turn can take.
  func offer() {
    for _ in 0..<GuestQueue.batch {
      let chain = chains[next % chains.count]
      next += 1
      if chainsPerPacket == 1 {
        driver.add(chain)
      } else {
        for buffer in chain { driver.add([buffer]) }
      }
    }
    driver.publish()
  }

  /// - Returns: packets whose buffers came back.
  func takeBack() throws -> Int {
    var count = 0
    while try driver.nextUsed() != nil { count += 1 }
    return count / chainsPerPacket
  }
}
