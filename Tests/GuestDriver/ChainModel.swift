// What a descriptor chain means, written as plainly as the specification says it (virtio 1.3, 2.7.5)
// and with no regard to speed: the answer that tests and the fuzzer compare the real walk with.
public import GuestMemory
public import Virtqueue

public struct ChainModel {
  public struct Run: Equatable, Sendable {
    public var address: UInt64
    public var length: Int
  }

  public enum Outcome: Equatable, Sendable {
    /// Guest memory in the order of the chain, cut at region borders.
    case runs([Run])
    case malformed(ChainDefect)
  }

  public let ram: GuestRAM
  public let descriptorTable: GuestAddress
  public let size: Int
  /// INDIRECT_DESC was negotiated.
  public let indirect: Bool
  /// Most runs that the device is ready to hold.
  public let capacity: Int

  public init(_ queue: DriverQueue, capacity: Int) {
    ram = queue.ram
    descriptorTable = queue.descriptorTable
    size = queue.size
    indirect = queue.features.contains(.ringIndirectDesc)
    self.capacity = capacity
  }

  public func walk(_ head: UInt16, writable: Bool) -> Outcome {
    var runs: [Run] = []
    var total: UInt64 = 0
    var base = descriptorTable.value
    var entries = size
    var steps = 0
    var index = Int(head)
    var inTable = false
    while true {
      // More steps than entries: one of them came twice.
      steps += 1
      guard steps <= entries else { return .malformed(.loop) }
      guard let d = descriptor(at: base &+ UInt64(16 * index)) else { return .malformed(.unmapped) }
      if d.flags & DescriptorFlags.indirect != 0 {
        guard indirect, !inTable, d.flags & DescriptorFlags.next == 0 else {
          return .malformed(.badIndirectFlags)
        }
        guard d.length > 0, d.length % 16 == 0, d.length / 16 <= 32768 else {
          return .malformed(.badIndirectTable)
        }
        guard ram.locate(GuestAddress(d.address)) != nil else { return .malformed(.unmapped) }
        base = d.address
        entries = Int(d.length / 16)
        steps = 0
        index = 0
        inTable = true
        continue
      }
      guard (d.flags & DescriptorFlags.write != 0) == writable else {
        return .malformed(.wrongDirection)
      }
      var address = d.address
      var left = UInt64(d.length)
      while left > 0 {
        guard let (region, offset) = ram.locate(GuestAddress(address)) else {
          return .malformed(.unmapped)
        }
        guard runs.count < capacity else { return .malformed(.tooManyBuffers) }
        let bytes = min(left, ram.descriptions[region].size - offset)
        runs.append(Run(address: address, length: Int(bytes)))
        total += bytes
        left -= bytes
        address += bytes
      }
      if total > UInt64(UInt32.max) { return .malformed(.tooLong) }
      if d.flags & DescriptorFlags.next == 0 { return .runs(runs) }
      index = Int(d.next)
      guard index < entries else { return .malformed(.nextOutOfRange) }
    }
  }

  /// The bytes of a chain as they are now.
  public func bytes(of runs: [Run]) -> [UInt8] {
    runs.flatMap { ram.read(GuestAddress($0.address), count: $0.length) }
  }

  private func descriptor(at address: UInt64) -> RawDescriptor? {
    // The entry has to lie in one region.
    guard let (region, offset) = ram.locate(GuestAddress(address)),
      ram.descriptions[region].size - offset >= 16
    else { return nil }
    let bytes = ram.read(GuestAddress(address), count: 16)
    func integer(_ range: Range<Int>) -> UInt64 {
      bytes[range].reversed().reduce(0) { $0 << 8 | UInt64($1) }
    }
    return RawDescriptor(
      integer(0..<8), UInt32(integer(8..<12)), flags: UInt16(integer(12..<14)),
      next: UInt16(integer(14..<16)))
  }
}
