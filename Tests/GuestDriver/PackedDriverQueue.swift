// The driver side of a packed virtqueue (virtio 1.3, 2.8), for tests, fuzzing and benchmarks.
//
// It lives in a `GuestRAM` and knows the ring only by the specification's offsets.  What a driver
// must not do is possible too: see the pokes below.
//
// One thread uses a queue at a time.
public import GuestMemory
import SharedRing
public import Virtqueue

/// The 16 bytes of a packed descriptor.
public struct RawPackedDescriptor: Equatable, Sendable {
  public var address: UInt64
  public var length: UInt32
  public var id: UInt16
  public var flags: UInt16
  public init(_ address: UInt64, _ length: UInt32, id: UInt16 = 0, flags: UInt16 = 0) {
    self.address = address
    self.length = length
    self.id = id
    self.flags = flags
  }

  public var bytes: [UInt8] {
    littleEndian(address) + littleEndian(length) + littleEndian(id) + littleEndian(flags)
  }
}

extension DescriptorFlags {
  public static let avail: UInt16 = 0x80
  public static let used: UInt16 = 0x8000
}

@safe
public final class PackedDriverQueue: RingDriver {
  /// A descriptor and the wrap counter of its lap.
  public struct Place: Equatable, Sendable {
    public var index: Int
    public var wrap: Bool
    public init(index: Int, wrap: Bool) {
      self.index = index
      self.wrap = wrap
    }

    public mutating func advance(_ slots: Int, in size: Int) {
      index += slots
      if index >= size {
        index -= size
        wrap.toggle()
      }
    }
    public var position: QueuePosition { QueuePosition(UInt16(index) | (wrap ? 0x8000 : 0)) }
    public var offered: UInt16 { wrap ? DescriptorFlags.avail : DescriptorFlags.used }
    public var returned: UInt16 { wrap ? DescriptorFlags.avail | DescriptorFlags.used : 0 }
  }

  public let ram: GuestRAM
  public let size: Int
  public let features: VirtioFeatures
  public let descriptorRing: GuestAddress
  public let driverArea: GuestAddress
  public let deviceArea: GuestAddress
  private let ring: UnsafeMutableRawPointer
  private let driverEvents: UnsafeMutableRawPointer
  private let deviceEvents: UnsafeMutableRawPointer

  /// Where the next descriptor goes.
  public private(set) var availPlace: Place
  /// Where the next used descriptor is looked for.
  public private(set) var usedPlace: Place
  private var publishedPlace: Place
  /// The head of the first chain that is not published: its flags are written last.
  private var held: (index: Int, flags: UInt16)?
  private var eventIdx: Bool { features.contains(.ringEventIdx) }

  public private(set) var freeDescriptors: Int
  private var freeIds: [UInt16]
  private struct Chain {
    var slots = 0
    var writableBytes = 0
    var outstanding = false
    var indirectTable = GuestAddress(0)
    var indirectCapacity = 0
  }
  /// By buffer id.
  private var chains: [Chain]
  private var order: [UInt16] = []
  public var outstanding: Int { order.count }

  /// - Parameter start: where both sides begin, as after a migration.
  public init(
    in ram: GuestRAM, size: Int, features: VirtioFeatures = [.version1, .ringPacked],
    start: QueuePosition = QueuePosition(0x8000), shuffled: UInt64? = nil
  ) {
    let place = Place(index: Int(start.value & 0x7fff), wrap: start.value & 0x8000 != 0)
    precondition(size > 0 && size <= 32768 && place.index < size)
    self.ram = ram
    self.size = size
    self.features = features
    // Odd multiples of the alignment.
    descriptorRing = GuestAddress(ram.allocate(16 + 16 * size, alignment: 16).value + 16)
    driverArea = GuestAddress(ram.allocate(8, alignment: 8).value + 4)
    deviceArea = GuestAddress(ram.allocate(8, alignment: 8).value + 4)
    unsafe ring = ram.pointer(descriptorRing, length: 16 * size)
    unsafe driverEvents = ram.pointer(driverArea, length: 4)
    unsafe deviceEvents = ram.pointer(deviceArea, length: 4)
    availPlace = place
    usedPlace = place
    publishedPlace = place
    freeDescriptors = size
    freeIds = (0..<size).reversed().map { UInt16($0) }
    if let seed = shuffled {
      var generator = SeededGenerator(seed: seed)
      freeIds.shuffle(using: &generator)
    }
    chains = Array(repeating: Chain(), count: size)
    pokeHistory(before: place)
  }

  /// What an honest history leaves behind: all of it returned, the later part one lap ago.
  public func pokeHistory(before place: Place) {
    unsafe deviceEvents.storeRelaxed16(0, UInt16(place.index) | (place.wrap ? 0x8000 : 0))
    let before = Place(index: 0, wrap: !place.wrap)
    for index in 0..<size {
      let flags = index < place.index ? place.returned : before.returned
      unsafe ring.storeRelaxed16(16 * index + 14, flags)
    }
  }

  public func config(_ index: Int, _ memory: GuestMemory) -> VirtqueueConfig {
    VirtqueueConfig(
      index: index, size: size, descriptorTable: ram.frontEnd(of: descriptorRing),
      availRing: ram.frontEnd(of: driverArea), usedRing: ram.frontEnd(of: deviceArea),
      base: VringBase(packed: usedPlace.position, used: usedPlace.position), features: features,
      memory: memory)
  }

  // MARK: Offering chains

  /// A chain is all direct or all in a table; `direct` of another number is a mistake of the test.
  @discardableResult
  public func add(_ buffers: [DriverQueue.Buffer], direct: Int?) -> UInt16? {
    let inTable = direct == 0
    precondition(inTable || (direct ?? buffers.count) >= buffers.count)
    let slots = inTable ? 1 : buffers.count
    guard slots <= freeDescriptors, let id = freeIds.popLast() else { return nil }
    let slot = Int(id)
    chains[slot].slots = slots
    chains[slot].writableBytes = buffers.reduce(0) { $0 + ($1.writable ? Int($1.length) : 0) }
    chains[slot].outstanding = true
    if inTable {
      let table = indirectTable(buffers, for: slot)
      put(
        RawPackedDescriptor(
          table.value, UInt32(16 * buffers.count), id: id, flags: DescriptorFlags.indirect),
        isHead: true)
    } else {
      for (i, buffer) in buffers.enumerated() {
        let isLast = i + 1 == buffers.count
        put(
          RawPackedDescriptor(
            buffer.address.value, buffer.length,
            // Only the last one counts.
            id: isLast ? id : ~id,
            flags: (buffer.writable ? DescriptorFlags.write : 0)
              | (isLast ? 0 : DescriptorFlags.next)),
          isHead: i == 0)
      }
    }
    freeDescriptors -= slots
    order.append(id)
    return id
  }

  private func indirectTable(_ buffers: [DriverQueue.Buffer], for slot: Int) -> GuestAddress {
    if chains[slot].indirectCapacity < buffers.count {
      chains[slot].indirectTable = ram.allocate(16 * buffers.count, alignment: 16)
      chains[slot].indirectCapacity = buffers.count
    }
    // WRITE is the only flag of an entry; the id means nothing.
    ram.write(
      buffers.flatMap {
        RawPackedDescriptor(
          $0.address.value, $0.length, id: 0xeeee,
          flags: $0.writable ? DescriptorFlags.write : 0
        ).bytes
      }, at: chains[slot].indirectTable)
    return chains[slot].indirectTable
  }

  private func put(_ descriptor: RawPackedDescriptor, isHead: Bool) {
    let index = availPlace.index
    let flags = descriptor.flags | availPlace.offered
    unsafe ring.storeRelaxed64(16 * index, descriptor.address)
    unsafe ring.storeRelaxed32(16 * index + 8, descriptor.length)
    unsafe ring.storeRelaxed16(16 * index + 12, descriptor.id)
    if isHead && held == nil {
      held = (index, flags)
    } else {
      unsafe ring.storeRelaxed16(16 * index + 14, flags)
    }
    availPlace.advance(1, in: size)
  }

  @discardableResult
  public func publish() -> Bool {
    guard let (index, flags) = held else { return false }
    held = nil
    unsafe ring.release16(16 * index + 14, flags)
    var place = publishedPlace
    publishedPlace = availPlace
    sharedMemoryFence()
    let wish = deviceWish
    guard eventIdx, wish.flags == 2 else { return wish.flags != 1 }
    // By counting, not by the formula that the device uses.
    repeat {
      if place.position == wish.event { return true }
      place.advance(1, in: size)
    } while place != availPlace
    return false
  }

  // MARK: Collecting used chains

  public func nextUsed() throws(DriverQueueError) -> DriverQueue.UsedElement? {
    let offset = 16 * usedPlace.index
    let flags = unsafe ring.acquire16(offset + 14)
    let owner = DescriptorFlags.avail | DescriptorFlags.used
    guard flags & owner == usedPlace.returned else { return nil }
    let id = unsafe ring.relaxed16(offset + 12)
    let length = unsafe ring.relaxed32(offset + 8)
    // A slot that holds nothing looks returned as well, one lap ago; nobody looks beyond these.
    guard !order.isEmpty else { return nil }
    let slot = Int(id)
    guard slot < size, chains[slot].outstanding else { throw .headNotOutstanding(UInt32(id)) }
    guard Int(length) <= chains[slot].writableBytes else {
      throw .lengthBeyondChain(head: id, length: length, room: chains[slot].writableBytes)
    }
    guard (flags & DescriptorFlags.write != 0) == (length > 0) else {
      throw .writeFlagWrong(head: id, length: length)
    }
    if features.contains(.inOrder), order[0] != id { throw .outOfOrder(id, expected: order[0]) }
    chains[slot].outstanding = false
    order.remove(at: order.firstIndex(of: id)!)
    freeIds.append(id)
    freeDescriptors += chains[slot].slots
    usedPlace.advance(chains[slot].slots, in: size)
    return DriverQueue.UsedElement(head: id, length: length)
  }

  public func enableCalls() -> Bool {
    if eventIdx { callEvent = usedPlace.position } else { driverFlags = 0 }
    sharedMemoryFence()
    let owner = DescriptorFlags.avail | DescriptorFlags.used
    return unsafe outstanding > 0
      && ring.acquire16(16 * usedPlace.index + 14) & owner == usedPlace.returned
  }

  public func disableCalls() { driverFlags = 1 }

  // MARK: Field by field

  /// Where the device wants a kick, and its flags (0 always, 1 never, 2 there).
  public var deviceWish: (event: QueuePosition, flags: UInt16) {
    let word = unsafe deviceEvents.relaxed32(0)
    return (QueuePosition(UInt16(truncatingIfNeeded: word)), UInt16(word >> 16))
  }
  /// Asks for a call at a place; sets the flags for it.
  public var callEvent: QueuePosition {
    get { QueuePosition(unsafe driverEvents.relaxed16(0)) }
    set { unsafe driverEvents.storeRelaxed32(0, UInt32(newValue.value) | 2 << 16) }
  }
  /// Flags of the driver's structure; the event stays.
  public var driverFlags: UInt16 {
    get { unsafe driverEvents.relaxed16(2) }
    set { unsafe driverEvents.storeRelaxed16(2, newValue) }
  }
  public func descriptor(_ index: Int) -> RawPackedDescriptor {
    precondition(index < size)
    let half = unsafe ring.relaxed64(16 * index + 8)
    return unsafe RawPackedDescriptor(
      ring.relaxed64(16 * index), UInt32(truncatingIfNeeded: half),
      id: UInt16(truncatingIfNeeded: half >> 32), flags: UInt16(truncatingIfNeeded: half >> 48))
  }
  /// Writes a descriptor, flags and all, whoever it belongs to.
  public func pokeDescriptor(_ index: Int, _ descriptor: RawPackedDescriptor) {
    precondition(index < size)
    unsafe ring.storeRelaxed64(16 * index, descriptor.address)
    unsafe ring.release64(
      16 * index + 8,
      UInt64(descriptor.length) | UInt64(descriptor.id) << 32 | UInt64(descriptor.flags) << 48)
  }
  /// Offers whatever the descriptors spell from `place` on; returns the place behind them.  A
  /// queue that was used like this takes nothing back: look at `descriptor`.
  @discardableResult
  public func pokeChain(_ descriptors: [RawPackedDescriptor], at place: Place) -> Place {
    var places = [place]
    for _ in descriptors {
      var next = places[places.count - 1]
      next.advance(1, in: size)
      places.append(next)
    }
    for i in descriptors.indices.reversed() {
      var descriptor = descriptors[i]
      descriptor.flags |= places[i].offered
      pokeDescriptor(places[i].index, descriptor)
    }
    return places[descriptors.count]
  }
}
