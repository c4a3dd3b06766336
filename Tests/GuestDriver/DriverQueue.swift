// The driver side of a split virtqueue (virtio 1.3, 2.7), for tests, fuzzing and benchmarks.
//
// It lives in a `GuestRAM` and knows the ring only by the specification's offsets.  What a driver
// must not do is possible too: see DriverQueue+Pokes.
//
// One thread uses a queue at a time.
public import GuestMemory
import SharedRing
public import Virtqueue

/// What a device may never do to a driver.
public enum DriverQueueError: Error, Equatable, Sendable {
  /// used->idx is more entries ahead than are outstanding.
  case usedIndexTooFar(Int)
  /// A used element names a head that the device does not hold.
  case headNotOutstanding(UInt32)
  /// A used element claims more written bytes than its chain has room for.
  case lengthBeyondChain(head: UInt16, length: UInt32, room: Int)
  /// Packed: the WRITE flag of a used descriptor says other than its length.
  case writeFlagWrong(head: UInt16, length: UInt32)
  /// With IN_ORDER: not the chain that was offered first.
  case outOfOrder(UInt16, expected: UInt16)
}

@safe
public final class DriverQueue: RingDriver {
  /// One descriptor's worth of memory.
  public struct Buffer: Equatable, Sendable {
    public var address: GuestAddress
    public var length: UInt32
    /// By the device.
    public var writable: Bool
    public init(_ address: GuestAddress, _ length: UInt32, writable: Bool = false) {
      self.address = address
      self.length = length
      self.writable = writable
    }
  }

  public struct UsedElement: Equatable, Sendable {
    public var head: UInt16
    /// Bytes that the device says it wrote.
    public var length: UInt32
    public init(head: UInt16, length: UInt32) {
      self.head = head
      self.length = length
    }
  }

  /// How the three parts lie in memory.
  public enum Placement: Sendable {
    /// Each on its own, with no more than its alignment.
    case modern
    /// One block, the used ring on the next page (virtio 1.3, 2.7.2, legacy interface).
    case legacy
  }

  public let ram: GuestRAM
  public let size: Int
  public let features: VirtioFeatures
  public let descriptorTable: GuestAddress
  public let availRing: GuestAddress
  public let usedRing: GuestAddress
  let table: UnsafeMutableRawPointer
  let avail: UnsafeMutableRawPointer
  let used: UnsafeMutableRawPointer

  /// The next avail entry to write; equal to the published index after `publish`.
  public private(set) var availIndex: UInt16
  /// The next used entry to look at.
  public private(set) var usedIndex: UInt16
  private var publishedIndex: UInt16
  private var eventIdx: Bool { features.contains(.ringEventIdx) }

  private var inOrder: Bool { features.contains(.inOrder) }

  private var free: [UInt16]
  /// Heads of the chains that the device holds, oldest first.
  private var order: [UInt16] = []
  private struct Chain {
    /// Descriptors of the ring's own table.
    var descriptors: [UInt16] = []
    var writableBytes = 0
    var outstanding = false
    var indirectTable = GuestAddress(0)
    var indirectCapacity = 0
  }
  /// By head.
  private var chains: [Chain]

  /// - Parameters:
  ///   - start: the index both rings begin with, as after a migration: 65000 is soon at the wrap.
  ///   - shuffled: descriptors are used in a random order of this seed, else ascending.
  public init(
    in ram: GuestRAM, size: Int, features: VirtioFeatures = [.version1], start: UInt16 = 0,
    placement: Placement = .modern, shuffled: UInt64? = nil
  ) {
    precondition(size > 0 && size <= 32768 && size & (size - 1) == 0)
    self.ram = ram
    self.size = size
    self.features = features
    switch placement {
    case .modern:
      // Odd multiples of the alignment where that is possible.
      descriptorTable = GuestAddress(ram.allocate(16 + 16 * size, alignment: 16).value + 16)
      availRing = GuestAddress(ram.allocate(6 + 2 * size + 2, alignment: 4).value + 2)
      usedRing = GuestAddress(ram.allocate(6 + 8 * size + 4, alignment: 8).value + 4)
    case .legacy:
      let usedOffset = (16 * size + 6 + 2 * size + 4095) / 4096 * 4096
      descriptorTable = ram.allocate(usedOffset + 6 + 8 * size, alignment: 4096)
      availRing = GuestAddress(descriptorTable.value + UInt64(16 * size))
      usedRing = GuestAddress(descriptorTable.value + UInt64(usedOffset))
    }
    unsafe table = ram.pointer(descriptorTable, length: 16 * size)
    unsafe avail = ram.pointer(availRing, length: 6 + 2 * size)
    unsafe used = ram.pointer(usedRing, length: 6 + 8 * size)
    availIndex = start
    publishedIndex = start
    usedIndex = start
    // Taken from the end.
    free = (0..<size).reversed().map { UInt16($0) }
    if let seed = shuffled {
      var generator = SeededGenerator(seed: seed)
      free.shuffle(using: &generator)
    }
    chains = Array(repeating: Chain(), count: size)
    unsafe avail.release16(2, start)
    unsafe used.release16(2, start)
  }

  public func config(_ index: Int, _ memory: GuestMemory) -> VirtqueueConfig {
    VirtqueueConfig(
      index: index, size: size, descriptorTable: ram.frontEnd(of: descriptorTable),
      availRing: ram.frontEnd(of: availRing), usedRing: ram.frontEnd(of: usedRing),
      base: VringBase(split: usedIndex), features: features, memory: memory)
  }

  // MARK: Offering chains

  public var freeDescriptors: Int { free.count }
  public var outstanding: Int { order.count }

  @discardableResult
  public func add(_ buffers: [Buffer], direct: Int?) -> UInt16? {
    let inRing = min(direct ?? buffers.count, buffers.count)
    let hasTable = inRing < buffers.count
    let needed = inRing + (hasTable ? 1 : 0)
    guard needed > 0, needed <= free.count else { return nil }
    let head = free[free.count - 1]
    let slot = Int(head)
    chains[slot].descriptors.removeAll(keepingCapacity: true)
    chains[slot].writableBytes = 0
    for i in 0..<needed {
      let own = free[free.count - 1 - i]
      chains[slot].descriptors.append(own)
      let next = i + 1 < needed ? free[free.count - 2 - i] : nil
      if i < inRing {
        unsafe write(buffers[i], next: next, to: table + 16 * Int(own))
      } else {
        let rest = buffers.count - inRing
        if chains[slot].indirectCapacity < rest {
          chains[slot].indirectTable = ram.allocate(16 * rest, alignment: 16)
          chains[slot].indirectCapacity = rest
        }
        let indirect = chains[slot].indirectTable
        let entries = unsafe ram.pointer(indirect, length: 16 * rest)
        for j in 0..<rest {
          unsafe write(
            buffers[inRing + j], next: j + 1 < rest ? UInt16(j + 1) : nil, to: entries + 16 * j)
        }
        unsafe storeDescriptor(
          table + 16 * Int(own), address: indirect.value, length: UInt32(16 * rest),
          flags: DescriptorFlags.indirect, next: 0)
      }
    }
    for buffer in buffers where buffer.writable {
      chains[slot].writableBytes += Int(buffer.length)
    }
    chains[slot].outstanding = true
    free.removeLast(needed)
    unsafe avail.storeRelaxed16(4 + 2 * (Int(availIndex) & (size - 1)), head)
    availIndex &+= 1
    order.append(head)
    return head
  }

  /// virtio 1.3, 2.7.13.4 and 2.7.10.
  @discardableResult
  public func publish() -> Bool {
    let old = publishedIndex
    publishedIndex = availIndex
    unsafe avail.release16(2, availIndex)
    sharedMemoryFence()
    guard old != availIndex else { return false }
    if eventIdx {
      // By counting, not by the formula that the device uses.
      let event = availEvent
      var index = old
      while index != availIndex {
        if index == event { return true }
        index &+= 1
      }
      return false
    }
    return usedFlags & 1 == 0
  }

  // MARK: Collecting used chains

  public func nextUsed() throws(DriverQueueError) -> UsedElement? {
    let waiting = Int(publishedUsedIndex &- usedIndex)
    guard waiting > 0 else { return nil }
    guard waiting <= outstanding else { throw .usedIndexTooFar(waiting) }
    let (id, length) = usedElement(usedIndex)
    guard id < UInt32(size), chains[Int(id)].outstanding else { throw .headNotOutstanding(id) }
    let head = UInt16(id)
    let slot = Int(id)
    guard Int(length) <= chains[slot].writableBytes else {
      throw .lengthBeyondChain(head: head, length: length, room: chains[slot].writableBytes)
    }
    if inOrder, order[0] != head { throw .outOfOrder(head, expected: order[0]) }
    chains[slot].outstanding = false
    order.remove(at: order.firstIndex(of: head)!)
    // With IN_ORDER descriptors are used in the order of the table: these after all others.
    free.insert(
      contentsOf: chains[slot].descriptors.reversed(), at: inOrder ? 0 : free.count)
    usedIndex &+= 1
    return UsedElement(head: head, length: length)
  }

  public func enableCalls() -> Bool {
    if eventIdx { usedEvent = usedIndex } else { availFlags = 0 }
    sharedMemoryFence()
    return publishedUsedIndex != usedIndex
  }

  /// With EVENT_IDX by an index that is not reached for a long time.
  public func disableCalls() {
    if eventIdx { usedEvent = usedIndex &- 1 } else { availFlags = 1 }
  }

  private func write(_ buffer: Buffer, next: UInt16?, to pointer: UnsafeMutableRawPointer) {
    unsafe storeDescriptor(
      pointer, address: buffer.address.value, length: buffer.length,
      flags: (buffer.writable ? DescriptorFlags.write : 0)
        | (next == nil ? 0 : DescriptorFlags.next),
      next: next ?? 0)
  }
}
