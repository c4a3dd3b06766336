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
    let whole = row.offload == .merged && !row.mergeable ? 65562 : 2048
    let room = writable && row.pieces == 1 ? whole : (bytes + row.pieces - 1) / row.pieces
    var generator = SeededGenerator(seed: 1)
    for _ in 0..<row.ring {
      var chain: [DriverQueue.Buffer] = []
      var left = bytes
      for _ in 0..<row.pieces where writable || left > 0 {
        let region = ram.descriptions[Int.random(in: 0..<row.regions, using: &generator)]
        let page =
          UInt64.random(in: 64..<(region.size - UInt64(max(bytes, room))) / 4096, using: &generator)
          * 4096
        chain.append(
          .init(
            GuestAddress(region.guest.value + page),
            UInt32(writable ? room : min(room, left)), writable: writable))
        left -= room
      }
      if row.direction == .transmit, row.offload != .none {
        ram.write(GuestQueue.head(of: row), at: chain[0].address)
      }
      chains.append(chain)
    }
    chainsPerPacket = writable ? row.pieces : 1
    wanted = GuestQueue.batch * chainsPerPacket
    driver.disableCalls()
  }
  private let chainsPerPacket: Int
  /// Chains that a turn can take.
  private let wanted: Int

  /// virtio-net header, Ethernet, IPv4 and TCP of a packet that is left to the device.
  private static func head(of row: Row) -> [UInt8] {
    let cut = row.offload == .segments
    var head: [UInt8] = [1, cut ? 1 : 0, 54, 0]
    head += cut ? [UInt8(1448 & 255), UInt8(1448 >> 8)] : [0, 0]
    head += [34, 0, 16, 0, 0, 0]
    head += [UInt8](repeating: 2, count: 12) + [8, 0]
    head += [
      0x45, 0, UInt8((row.size - 14) >> 8), UInt8((row.size - 14) & 255), 0, 0, 0x40, 0, 64, 6,
    ]
    head += [UInt8](repeating: 10, count: 10)
    head += [UInt8](repeating: 1, count: 12) + [0x50, 0x10, 1, 1, 0, 0, 0, 0]
    return head
  }

  /// Offers what a turn can take.
  func offer() {
    while driver.outstanding + chainsPerPacket <= wanted {
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

  /// Takes back what there is: of packets that were merged, fewer buffers than came packets.
  func takeAll() throws { while try driver.nextUsed() != nil {} }

  /// - Returns: packets whose buffers came back.
  func takeBack() throws -> Int {
    var count = 0
    while try driver.nextUsed() != nil { count += 1 }
    return count / chainsPerPacket
  }
}
