// The buffers of a ring, used one after the other.
//
// They lie on a page each, in no order, over all regions: the same pages and cache lines whatever
// the number of regions, so that a difference between two numbers is the cost of translation.
import GuestDriver
import GuestMemory
import SharedRing

struct BufferCycle: ~Copyable {
  @safe
  struct Buffer: BitwiseCopyable {
    var address: UInt64
    var bytes: UnsafeMutableRawPointer
  }

  /// Room of each, in bytes.
  let room: Int
  private let buffers: FixedBuffer<Buffer>
  private let cursors: HotState<Cursors>
  private let mask: Int

  struct Cursors {
    var put = 0
    var taken = 0
  }

  /// A cycle has the same number of buffers for any ring that is not larger.
  static func count(ringSize: Int) -> Int {
    var count = 1024
    while count < ringSize { count *= 2 }
    return count
  }

  /// Guest memory that a buffer takes.
  static func stride(room: Int) -> Int { (room + stagger * 31 + 4095) / 4096 * 4096 }

  /// Buffers at the same place of each page would share few sets of the cache.
  private static let stagger = 64

  init(
    in ram: GuestRAM, room: Int, ringSize: Int, generator: inout SeededGenerator
  ) {
    self.room = room
    let count = BufferCycle.count(ringSize: ringSize)
    let regions = ram.descriptions.count
    var all: [Buffer] = []
    for i in 0..<count {
      let page = ram.allocate(
        BufferCycle.stride(room: room), alignment: 4096, region: i % regions)
      let address = GuestAddress(page.value + UInt64(BufferCycle.stagger * (i % 32)))
      unsafe all.append(
        Buffer(address: address.value, bytes: ram.pointer(address, length: room)))
    }
    all.shuffle(using: &generator)
    buffers = FixedBuffer(repeating: all[0], count: count)
    for (i, buffer) in all.enumerated() { buffers[i] = buffer }
    mask = count - 1
    cursors = HotState(Cursors())
  }

  var count: Int { buffers.count }

  subscript(index: Int) -> Buffer { buffers[index] }

  /// The next buffer for the ring.
  @inline(__always)
  func put() -> Buffer {
    let buffer = buffers[cursors.value.put]
    cursors.value.put = (cursors.value.put &+ 1) & mask
    return buffer
  }

  /// The next buffer that comes back from the ring.
  @inline(__always)
  func take() -> Buffer {
    let buffer = buffers[cursors.value.taken]
    cursors.value.taken = (cursors.value.taken &+ 1) & mask
    return buffer
  }
}
