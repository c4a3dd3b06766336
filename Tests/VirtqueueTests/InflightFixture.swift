// An in-flight area as the front-end holds it: a file, and a mapping to look into it.
import GuestMemory
import Linux
import SharedRing
import Virtqueue

@safe
final class InflightFixture {
  let format: InflightFormat
  let entries: Int
  let queues: Int
  private let file: OwnedDescriptor
  private let mapping: Mapping
  let bytes: Int

  init(_ format: InflightFormat = .split, queues: Int = 1, entries: Int) throws {
    self.format = format
    self.entries = entries
    self.queues = queues
    bytes = format.areaBytes(queues: queues, entries: entries)
    file = try OwnedDescriptor.sealedMemory(name: "inflight", length: bytes)
    mapping = try Mapping(length: bytes, descriptor: file.raw, flags: 1)
  }

  /// As a back-end maps it, anew.
  func area() throws -> InflightArea {
    try InflightArea(
      file: file, offset: 0, size: UInt64(bytes), queueCount: queues, entryCount: entries,
      mostQueues: 8, format: format)
  }

  var base: UnsafeMutableRawPointer { unsafe mapping.base }

  subscript(word offset: Int) -> UInt64 {
    get { unsafe mapping.base.relaxed64(offset) }
    set { unsafe mapping.base.storeRelaxed64(offset, newValue) }
  }
  subscript(half offset: Int) -> UInt16 {
    get { unsafe mapping.base.relaxed16(offset) }
    set { unsafe mapping.base.storeRelaxed16(offset, newValue) }
  }

  // Split regions, by the specification's names.
  var version: UInt16 {
    get { self[half: 8] }
    set { self[half: 8] = newValue }
  }
  var descNum: UInt16 {
    get { self[half: 10] }
    set { self[half: 10] = newValue }
  }
  var lastBatchHead: UInt16 {
    get { self[half: 12] }
    set { self[half: 12] = newValue }
  }
  var usedIdx: UInt16 {
    get { self[half: 14] }
    set { self[half: 14] = newValue }
  }
  func setEntry(_ index: Int, inflight: UInt8, next: UInt16 = 0, counter: UInt64 = 0) {
    self[word: 16 + 16 * index] = UInt64(inflight) | UInt64(next) << 48
    self[word: 24 + 16 * index] = counter
  }
  /// Heads that are marked.
  var inflight: [Int] { (0..<entries).filter { self[word: 16 + 16 * $0] & 0xff != 0 } }

  func fill(with bytes: [UInt8]) {
    for (i, byte) in bytes.prefix(self.bytes).enumerated() {
      unsafe mapping.base.storeBytes(of: byte, toByteOffset: i, as: UInt8.self)
    }
  }
}
