// What a chain of a packed ring means, written as plainly as the specification says it (virtio 1.3,
// 2.8) and with no regard to speed: the answer that tests and the fuzzer compare the real walk with.
import GuestMemory
public import Virtqueue

public struct PackedChainModel {
  public enum Outcome: Equatable, Sendable {
    /// Guest memory in the order of the chain, cut at region borders.
    case runs(DescriptorChain, [ChainModel.Run])
    case malformed(DescriptorChain, ChainDefect)
    /// Nothing is offered.
    case none
    /// A chain without end.
    case fault
  }

  private let queue: PackedDriverQueue
  /// Most runs that the device is ready to hold.
  private let capacity: Int

  public init(_ queue: PackedDriverQueue, capacity: Int) {
    self.queue = queue
    self.capacity = capacity
  }

  public func walk(at position: QueuePosition, writable: Bool) -> Outcome {
    let isFirstLap = position.value & 0x8000 != 0
    let head = queue.descriptor(Int(position.value & 0x7fff))
    let avail = head.flags & DescriptorFlags.avail != 0
    let used = head.flags & DescriptorFlags.used != 0
    guard avail == isFirstLap, used != isFirstLap else { return .none }

    var descriptors = [head]
    while descriptors[descriptors.count - 1].flags & DescriptorFlags.next != 0 {
      guard descriptors.count < queue.size else { return .fault }
      let index = (Int(position.value & 0x7fff) + descriptors.count) % queue.size
      descriptors.append(queue.descriptor(index))
    }
    let chain = DescriptorChain(
      id: descriptors[descriptors.count - 1].id, slots: UInt16(descriptors.count))

    var runs: [ChainModel.Run] = []
    for (i, descriptor) in descriptors.enumerated() {
      let defect: ChainDefect?
      if descriptor.flags & DescriptorFlags.indirect != 0 {
        let isAlone = i == 0 && descriptors.count == 1
        guard isAlone, queue.features.contains(.ringIndirectDesc) else {
          return .malformed(chain, .badIndirectFlags)
        }
        defect = walkTable(descriptor, writable: writable, &runs)
      } else {
        defect = add(descriptor, writable: writable, &runs)
      }
      if let defect { return .malformed(chain, defect) }
    }
    return .runs(chain, runs)
  }

  private func walkTable(
    _ table: RawPackedDescriptor, writable: Bool, _ runs: inout [ChainModel.Run]
  ) -> ChainDefect? {
    guard table.length > 0, table.length % 16 == 0, table.length / 16 <= 32768 else {
      return .badIndirectTable
    }
    for i in 0..<UInt64(table.length / 16) {
      let address = GuestAddress(table.address &+ 16 * i)
      // The entry has to lie in one region.
      guard let (region, offset) = queue.ram.locate(address),
        queue.ram.descriptions[region].size - offset >= 16
      else { return .unmapped }
      let bytes = queue.ram.read(address, count: 16)
      func integer(_ range: Range<Int>) -> UInt64 {
        bytes[range].reversed().reduce(0) { $0 << 8 | UInt64($1) }
      }
      let entry = RawPackedDescriptor(
        integer(0..<8), UInt32(integer(8..<12)), flags: UInt16(integer(14..<16)))
      if let defect = add(entry, writable: writable, inTable: true, &runs) { return defect }
    }
    return nil
  }

  private func add(
    _ descriptor: RawPackedDescriptor, writable: Bool, inTable: Bool = false,
    _ runs: inout [ChainModel.Run]
  ) -> ChainDefect? {
    let isWritable = descriptor.flags & DescriptorFlags.write != 0
    // Some drivers mark the entries of every table.
    guard isWritable == writable || (inTable && !writable) else { return .wrongDirection }
    var address = descriptor.address
    var left = UInt64(descriptor.length)
    while left > 0 {
      guard let (region, offset) = queue.ram.locate(GuestAddress(address)) else {
        return .unmapped
      }
      guard runs.count < capacity else { return .tooManyBuffers }
      let bytes = min(left, queue.ram.descriptions[region].size - offset)
      runs.append(ChainModel.Run(address: address, length: Int(bytes)))
      left -= bytes
      address += bytes
    }
    let total = runs.reduce(0) { $0 + UInt64($1.length) }
    return total > UInt64(UInt32.max) ? .tooLong : nil
  }
}
