// The buffers of one of the tap guest's rings: as many as the ring has places.
import Glibc
import GuestDriver
import GuestMemory
import SharedRing

struct TapBuffers: ~Copyable {
  /// Room of each, in bytes, with header.
  let room: Int
  private let buffers: FixedBuffer<BufferCycle.Buffer>
  /// Numbers of those that are in no ring; the last one is the next.
  private let free: FixedBuffer<Int>
  private let freeCount: HotState<Int>
  /// Which one is in a place of the ring.
  private let places: FixedBuffer<Int>

  /// Guest memory that a buffer takes.
  static func stride(room: Int) -> Int { BufferCycle.stride(room: room) }

  init(in ram: GuestRAM, room: Int, count: Int) {
    self.room = room
    var all: [BufferCycle.Buffer] = []
    for i in 0..<count {
      let page = ram.allocate(TapBuffers.stride(room: room), alignment: 4096, region: 0)
      // Buffers at the same place of each page would share few sets of the cache.
      let address = GuestAddress(page.value + UInt64(64 * (i % 32)))
      unsafe all.append(
        BufferCycle.Buffer(address: address.value, bytes: ram.pointer(address, length: room)))
    }
    buffers = FixedBuffer(repeating: all[0], count: count)
    free = FixedBuffer(repeating: 0, count: count)
    places = FixedBuffer(repeating: 0, count: count)
    for i in 0..<count {
      buffers[i] = all[i]
      free[i] = count - 1 - i
    }
    freeCount = HotState(count)
  }

  var hasFree: Bool { freeCount.value > 0 }

  /// The one that `take` takes; there must be one.
  var last: BufferCycle.Buffer {
    @inline(__always) get { buffers[free[freeCount.value &- 1]] }
  }

  /// Puts the last one into a place of the ring.
  @inline(__always)
  func take(at place: Int) {
    freeCount.value &-= 1
    places[place] = free[freeCount.value]
  }

  @inline(__always)
  func held(_ place: Int) -> BufferCycle.Buffer { buffers[places[place]] }

  @inline(__always)
  func giveBack(_ place: Int) {
    free[freeCount.value] = places[place]
    freeCount.value &+= 1
  }
}

/// The parts of a packet, for one call to write them.
@safe
struct TapVectors: ~Copyable {
  let count: Int
  private let parts: UnsafeMutablePointer<iovec>

  init(count: Int) {
    self.count = count
    unsafe parts = .allocate(capacity: count)
    unsafe parts.initialize(repeating: iovec(), count: count)
  }

  deinit { unsafe parts.deallocate() }

  @inline(__always)
  func set(_ index: Int, _ bytes: UnsafeMutableRawPointer, _ length: Int) {
    precondition(index >= 0 && index < count)
    unsafe parts[index] = iovec(iov_base: bytes, iov_len: length)
  }

  /// gso_type of the virtio-net header that the first part begins with.
  var segmentation: UInt8 { unsafe parts[0].iov_base.load(fromByteOffset: 1, as: UInt8.self) }

  @inline(__always)
  func write(_ count: Int, to descriptor: CInt) -> Int {
    precondition(count <= self.count)
    return unsafe writev(descriptor, parts, CInt(count))
  }
}
