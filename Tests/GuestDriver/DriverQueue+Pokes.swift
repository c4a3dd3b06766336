// The fields of the ring, one by one: what an honest driver reads and writes through `DriverQueue`,
// and what a hostile one writes at any time.
public import GuestMemory
import SharedRing

/// Flags of a descriptor (virtio 1.3, 2.7.5).
public enum DescriptorFlags {
  public static let next: UInt16 = 1
  public static let write: UInt16 = 2
  public static let indirect: UInt16 = 4
}

/// The 16 bytes of a descriptor.
public struct RawDescriptor: Equatable, Sendable {
  public var address: UInt64
  public var length: UInt32
  public var flags: UInt16
  public var next: UInt16
  public init(_ address: UInt64, _ length: UInt32, flags: UInt16 = 0, next: UInt16 = 0) {
    self.address = address
    self.length = length
    self.flags = flags
    self.next = next
  }

  public var bytes: [UInt8] {
    littleEndian(address) + littleEndian(length) + littleEndian(flags) + littleEndian(next)
  }
}

func littleEndian<Value: FixedWidthInteger>(_ value: Value) -> [UInt8] {
  (0..<Value.bitWidth / 8).map { UInt8(truncatingIfNeeded: value >> ($0 * 8)) }
}

@unsafe
func storeDescriptor(
  _ pointer: UnsafeMutableRawPointer, address: UInt64, length: UInt32, flags: UInt16, next: UInt16
) {
  unsafe pointer.storeRelaxed64(0, address)
  unsafe pointer.storeRelaxed64(
    8, UInt64(length) | UInt64(flags) << 32 | UInt64(next) << 48)
}

extension DriverQueue {
  // MARK: Written by the device

  /// used->idx as the device published it.
  public var publishedUsedIndex: UInt16 {
    get { unsafe used.acquire16(2) }
    set { unsafe used.release16(2, newValue) }
  }
  public var usedFlags: UInt16 {
    get { unsafe used.relaxed16(0) }
    set { unsafe used.storeRelaxed16(0, newValue) }
  }
  /// The index beyond which the device wants a kick (EVENT_IDX).
  public var availEvent: UInt16 {
    get { unsafe used.relaxed16(4 + 8 * size) }
    set { unsafe used.storeRelaxed16(4 + 8 * size, newValue) }
  }
  /// The used element of a free-running index.
  public func usedElement(_ index: UInt16) -> (id: UInt32, length: UInt32) {
    let offset = 4 + 8 * (Int(index) & (size - 1))
    return unsafe (used.acquire32(offset), used.acquire32(offset + 4))
  }

  // MARK: Written by the driver

  public var availFlags: UInt16 {
    get { unsafe avail.relaxed16(0) }
    set { unsafe avail.storeRelaxed16(0, newValue) }
  }
  /// The index beyond which the driver wants a call (EVENT_IDX).
  public var usedEvent: UInt16 {
    get { unsafe avail.relaxed16(4 + 2 * size) }
    set { unsafe avail.storeRelaxed16(4 + 2 * size, newValue) }
  }
  /// avail->idx, whatever was added.
  public func pokeAvailIndex(_ index: UInt16) { unsafe avail.release16(2, index) }
  /// The entry of a free-running index.
  public func pokeAvailEntry(_ index: UInt16, _ head: UInt16) {
    unsafe avail.storeRelaxed16(4 + 2 * (Int(index) & (size - 1)), head)
  }
  public func pokeDescriptor(_ index: Int, _ descriptor: RawDescriptor) {
    precondition(index < size)
    unsafe storeDescriptor(
      table + 16 * index, address: descriptor.address, length: descriptor.length,
      flags: descriptor.flags, next: descriptor.next)
  }
  public func descriptor(_ index: Int) -> RawDescriptor {
    precondition(index < size)
    let half = unsafe table.relaxed64(16 * index + 8)
    return unsafe RawDescriptor(
      table.relaxed64(16 * index), UInt32(truncatingIfNeeded: half),
      flags: UInt16(truncatingIfNeeded: half >> 32), next: UInt16(truncatingIfNeeded: half >> 48))
  }

  /// Offers whatever chain the descriptors spell, and publishes it.  A queue that was used like
  /// this takes nothing back: look at `usedElement` and `publishedUsedIndex`.
  /// - Parameter index: where in the avail ring; nil: behind what is published.
  public func pokeChain(_ descriptors: [RawDescriptor], at index: UInt16? = nil, head: UInt16 = 0) {
    for (i, descriptor) in descriptors.enumerated() {
      pokeDescriptor((Int(head) + i) & (size - 1), descriptor)
    }
    let index = unsafe index ?? avail.relaxed16(2)
    pokeAvailEntry(index, head)
    pokeAvailIndex(index &+ 1)
  }

  /// An indirect table in guest memory.
  public func indirectTable(_ descriptors: [RawDescriptor]) -> GuestAddress {
    let address = ram.allocate(16 * max(1, descriptors.count), alignment: 16)
    ram.write(descriptors.flatMap(\.bytes), at: address)
    return address
  }
}
