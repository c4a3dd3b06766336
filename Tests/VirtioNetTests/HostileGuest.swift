// A guest that writes its memory at full speed while the device reads it: descriptors, indirect tables,
// rings, packet headers and packets, in either ring format.
//
// It goes on offering chains, many of them good ones, so that the device is deep in its work when a
// field changes that it has looked at.
import Glibc
import GuestDriver
import GuestMemory
import Linux
import SharedRing
import Synchronization
import Virtqueue

/// What the two threads say to one another: odd numbers ask the writer to hold its hand.
final class Truce: Sendable {
  private let wanted = Atomic<UInt64>(0)
  private let seen = Atomic<UInt64>(0)
  private let isOver = Atomic<Bool>(false)

  /// For the writer, between two strokes: false at the end.
  func goOn() -> Bool {
    while true {
      let number = wanted.load(ordering: .acquiring)
      seen.store(number, ordering: .releasing)
      if isOver.load(ordering: .acquiring) { return false }
      if number % 2 == 0 { return true }
      sched_yield()
    }
  }

  /// Runs `body` while nobody writes.
  func hold(_ body: () throws -> Void) rethrows {
    let number = wanted.load(ordering: .relaxed) + 1
    wanted.store(number, ordering: .releasing)
    while seen.load(ordering: .acquiring) != number { sched_yield() }
    try body()
    wanted.store(number + 1, ordering: .releasing)
  }

  func end() { isOver.store(true, ordering: .releasing) }
}

// What fields are chosen from: right values, those at the edges, and wrong ones.  Constants, since the
// writer must be quick.
private let oddAddresses: [UInt64] = [.max, .max - 15, 1 << 63, 1 << 20 + 262144 - 1]
private let oddLengths: [UInt32] = [0, 1, 12, 25, 26, 66, 2060, 4096, 65600, .max]
private let usualLengths: [UInt32] = [72, 110, 600, 1526, 1600]
private let headerFlags: [UInt64] = [0, 1, 1, 1, 2, 3, 0xff]
private let segmentKinds: [UInt64] = [0, 0, 1, 1, 4, 5, 3, 0x81]
private let headerLengths: [UInt64] = [0, 54, 66, 0xffff]
private let segmentSizes: [UInt64] = [0, 1, 100, 536, 1448, 0xffff]
private let checksumStarts: [UInt64] = [34, 34, 34, 54, 14, 0xffff]
private let checksumOffsets: [UInt32] = [16, 16, 6, 0, 0xffff]

/// Only the thread that writes uses it, and its drivers.
struct HostileGuest: @unchecked Sendable {
  static let size = 64
  /// Rings and tables, two regions that touch, and one beyond 4 GiB.
  static let regions: [(guest: UInt64, size: UInt64)] = [
    (0, 65536), (1 << 20, 131072), (1 << 20 + 131072, 131072), (1 << 32, 65536),
  ]
  private static let tables: UInt64 = 32768

  private let ram: GuestRAM
  private let split: DriverQueue?
  private let packed: PackedDriverQueue?
  private let writes: Bool
  private let aimsAtRings: Bool
  private var generator: SeededGenerator
  private var availIndex: UInt16 = 0
  private var place = PackedDriverQueue.Place(index: 0, wrap: true)

  /// - Parameters:
  ///   - writes: chains are for the device to write into.
  ///   - aimsAtRings: buffers may lie in the rings and tables too.
  init(_ ram: GuestRAM, _ ring: any RingDriver, writes: Bool, aimsAtRings: Bool, seed: UInt64) {
    self.ram = ram
    split = ring as? DriverQueue
    packed = ring as? PackedDriverQueue
    self.writes = writes
    self.aimsAtRings = aimsAtRings
    generator = SeededGenerator(seed: seed)
  }

  private mutating func random(_ count: Int) -> Int {
    Int(truncatingIfNeeded: generator.next() >> 33) % count
  }

  private mutating func one<Value>(of values: [Value]) -> Value { values[random(values.count)] }

  /// Where a buffer begins: mostly a page that has a header in it.
  private mutating func address() -> UInt64 {
    let region = HostileGuest.regions[aimsAtRings && random(8) == 0 ? 0 : 1 + random(3)]
    switch random(32) {
    case 0..<6: return region.guest + region.size - UInt64(random(1700))
    case 6: return region.guest &- UInt64(random(80))
    case 7: return one(of: oddAddresses)
    case 8: return region.guest + UInt64(random(Int(region.size)))
    default: return region.guest + UInt64(random(Int(region.size) / 4096)) * 4096
    }
  }

  private mutating func length() -> UInt32 {
    switch random(8) {
    case 0: one(of: oddLengths)
    case 1: 16000
    default: one(of: usualLengths)
    }
  }

  private mutating func flags(inTable: Bool) -> UInt16 {
    var flags: UInt16 = (random(32) == 0) != writes ? DescriptorFlags.write : 0
    if random(8) == 0 { flags |= DescriptorFlags.next }
    if !inTable, random(8) == 0 { flags |= DescriptorFlags.indirect }
    return flags
  }

  /// Writes something.
  mutating func strike() {
    switch random(16) {
    case 0..<4: descriptor(random(HostileGuest.size))
    case 4..<6: tableEntry()
    case 6..<8: header()
    case 8: payload()
    case 9 where random(256) == 0: nonsense()
    default: offer()
    }
  }

  private mutating func descriptor(_ index: Int, offered: UInt16? = nil) {
    var flags = flags(inTable: false)
    var (address, length) = (address(), length())
    if flags & DescriptorFlags.indirect != 0, random(16) != 0 {
      address = HostileGuest.tables + UInt64(random(64)) * 512
      length = UInt32(16 * random(40))
    }
    if let split {
      let next = UInt16(random(HostileGuest.size + (random(32) == 0 ? 8 : 0)))
      split.pokeDescriptor(index, RawDescriptor(address, length, flags: flags, next: next))
    }
    if let packed {
      flags |= offered ?? UInt16(random(4)) << 7 & DescriptorFlags.avail
      if offered == nil, random(2) == 0 { flags |= DescriptorFlags.used }
      let id = UInt16(random(HostileGuest.size))
      packed.pokeDescriptor(index, RawPackedDescriptor(address, length, id: id, flags: flags))
    }
  }

  private mutating func tableEntry() {
    let at = GuestAddress(HostileGuest.tables + UInt64(random(2048)) * 16)
    let half = UInt64(flags(inTable: random(32) != 0)) << 32 | UInt64(random(40)) << 48
    unsafe ram.pointer(at, length: 16).storeRelaxed64(0, address())
    unsafe ram.pointer(at, length: 16).storeRelaxed64(8, UInt64(length()) | half)
  }

  private mutating func page() -> UnsafeMutableRawPointer {
    let region = HostileGuest.regions[1 + random(3)]
    let at = region.guest + UInt64(random(Int(region.size) / 4096)) * 4096
    return unsafe ram.pointer(GuestAddress(at), length: 4096)
  }

  /// A virtio-net header and the packet headers behind it, right ones or nearly so.
  private mutating func header() {
    let place = unsafe page()
    var low: UInt64 = 0
    if random(2) == 0 {
      low = one(of: headerFlags) | one(of: segmentKinds) << 8 | one(of: headerLengths) << 16
      low |= one(of: segmentSizes) << 32 | one(of: checksumStarts) << 48
    }
    unsafe place.storeRelaxed64(0, low)
    unsafe place.storeRelaxed32(8, one(of: checksumOffsets))
    if random(2) == 0 {
      // Ethernet, IPv4, TCP.
      unsafe place.storeRelaxed32(12 + 12, 0x0045_0008)
      unsafe place.storeRelaxed64(12 + 16, UInt64(random(4096)) | 0x0640_0040_0000_0000)
      unsafe place.storeRelaxed64(12 + 44, 0x1050 << 16 | UInt64(random(65536)) << 32)
    } else {
      unsafe place.storeBytes(
        of: UInt8(truncatingIfNeeded: random(256)), toByteOffset: 12 + random(54), as: UInt8.self)
    }
  }

  private mutating func payload() {
    let (place, at) = unsafe (page(), 12 + random(4000))
    for i in 0..<64 where at + i < 4096 {
      unsafe place.storeBytes(of: UInt8(i), toByteOffset: at + i, as: UInt8.self)
    }
  }

  /// Chains for the device, as long as the ring has room.
  private mutating func offer() {
    if let split {
      let room = HostileGuest.size - Int(availIndex &- split.publishedUsedIndex)
      guard room > 0, room <= HostileGuest.size else {
        availIndex = split.publishedUsedIndex
        return
      }
      for _ in 0..<min(room, 1 + random(8)) {
        split.pokeAvailEntry(availIndex, UInt16(random(HostileGuest.size)))
        availIndex &+= 1
      }
      split.pokeAvailIndex(availIndex)
    }
    if packed != nil {
      for _ in 0...random(8) {
        descriptor(place.index, offered: place.offered)
        place.advance(1, in: HostileGuest.size)
      }
    }
  }

  /// What stops a ring.
  private mutating func nonsense() {
    if let split {
      switch random(3) {
      case 0: split.pokeAvailIndex(UInt16(random(65536)))
      case 1: split.pokeAvailEntry(UInt16(random(64)), UInt16(random(65536)))
      default: if aimsAtRings { split.publishedUsedIndex = UInt16(random(65536)) }
      }
      split.usedEvent = UInt16(random(65536))
    }
    if let packed {
      for index in 0..<HostileGuest.size {
        var descriptor = packed.descriptor(index)
        descriptor.flags |= DescriptorFlags.next
        packed.pokeDescriptor(index, descriptor)
      }
    }
  }
}
