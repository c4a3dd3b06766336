// A driver and a device on one ring.
import GuestDriver
import GuestMemory
import Linux
import Testing
import Virtqueue

enum Walked: Equatable {
  case bytes([UInt8])
  case malformed(ChainDefect)
}

final class Rig {
  let ram: GuestRAM
  let memory: GuestMemory
  let ring: any RingDriver
  var device: AnyVirtqueue
  let readable: DeviceReadableBuffers
  let writable: DeviceWritableBuffers
  let capacity: Int
  let kick: EventDescriptor
  let call: EventDescriptor
  let error: EventDescriptor

  /// All that matters to the walk.
  static let features: VirtioFeatures = [.version1, .ringIndirectDesc]
  /// The same, in both formats.
  static let formats: [VirtioFeatures] = [features, features.union(.ringPacked)]

  /// For tests of one format: its fields.
  var driver: DriverQueue { ring as! DriverQueue }
  var packed: PackedDriverQueue { ring as! PackedDriverQueue }

  init(
    _ ram: GuestRAM? = nil, size: Int = 256, features: VirtioFeatures = Rig.features,
    start: UInt16 = 0, placement: DriverQueue.Placement = .modern, shuffled: UInt64? = nil,
    capacity: Int = 2048
  ) throws {
    self.ram = try ram ?? GuestRAM()
    memory = try self.ram.memory()
    ring =
      placement == .legacy
      ? DriverQueue(
        in: self.ram, size: size, features: features, start: start, placement: .legacy,
        shuffled: shuffled)
      : ringDriver(
        in: self.ram, size: size, features: features, start: start, shuffled: shuffled)
    kick = try EventDescriptor()
    call = try EventDescriptor()
    error = try EventDescriptor()
    device = try AnyVirtqueue(
      activating: ring.config(memory: memory, kick: kick, call: call, error: error))
    self.capacity = capacity
    readable = DeviceReadableBuffers(capacity: capacity)
    writable = DeviceWritableBuffers(capacity: capacity)
  }

  /// Takes the next chain, if there is one, and returns it with length 0.
  func transmit() -> Walked? {
    var position = device.position
    let walked: Walked
    let single = device.single(at: position, writable: false)
    let outcome = device.collect(at: &position, into: readable)
    check(single, outcome, position, byteCount: readable.byteCount)
    switch outcome {
    case .chain(let chain):
      walked = .bytes(copy(from: 0, length: readable.byteCount))
      device.push(chain, length: 0)
    case .malformed(let chain, let defect):
      walked = .malformed(defect)
      device.push(chain, length: 0)
    case .none: return nil
    }
    device.take(to: position)
    device.publish()
    return walked
  }

  func copy(from offset: Int, length: Int) -> [UInt8] {
    unsafe [UInt8](unsafeUninitializedCapacity: length) { buffer, count in
      if let base = buffer.baseAddress, length > 0 {
        unsafe readable.copy(from: offset, length: length, to: base)
      }
      count = length
    }
  }

  /// Fills the next chain with `parts` and returns it; nil if there is none.
  func receive(_ parts: [[UInt8]]) -> ChainDefect?? {
    writable.removeAll()
    var position = device.position
    var offset = 0
    let defect: ChainDefect?
    let single = device.single(at: position, writable: true)
    let outcome = device.append(at: &position, to: writable)
    check(single, outcome, position, byteCount: writable.byteCount)
    switch outcome {
    case .chain(let chain):
      for part in parts where !part.isEmpty {
        unsafe part.withUnsafeBytes {
          unsafe writable.copy($0.baseAddress!, length: part.count, to: offset)
        }
        offset += part.count
      }
      device.push(chain, length: UInt32(offset))
      defect = nil
    case .malformed(let chain, let reason):
      device.push(chain, length: 0)
      defect = reason
    case .none: return nil
    }
    device.take(to: position)
    device.publish()
    return .some(defect)
  }

  /// What is at the next position, walked in a direction; it is not taken.
  func look(writable wanted: Bool = false) -> ChainOutcome {
    var position = device.position
    writable.removeAll()
    let single = device.single(at: position, writable: wanted)
    let outcome =
      wanted
      ? device.append(at: &position, to: writable) : device.collect(at: &position, into: readable)
    check(
      single, outcome, position, byteCount: wanted ? writable.byteCount : readable.byteCount)
    return outcome
  }

  /// The short way to a chain, where there is one, comes to what the walk finds.
  private func check(
    _ single: SingleBuffer?, _ outcome: ChainOutcome, _ position: QueuePosition, byteCount: Int
  ) {
    guard let single else { return }
    #expect(outcome == .chain(single.chain))
    #expect(position == single.next)
    #expect(byteCount == single.byteCount)
  }

  /// Why the chain at the next position is malformed; it is not taken.
  func defect(writable wanted: Bool = false) -> ChainDefect? {
    switch look(writable: wanted) {
    case .chain: return nil
    case .malformed(_, let defect): return defect
    case .none: preconditionFailure("nothing offered")
    }
  }

  /// Passes over the next `count` chains; returns those that are there, not taken.
  func skip(_ count: Int) -> [DescriptorChain] {
    var position = device.position
    return (0..<count).compactMap { _ in
      if case .chain(let chain) = device.skip(at: &position) { return chain }
      return nil
    }
  }

  /// Takes the next `count` chains and returns them with length 0.
  func giveBack(_ count: Int) {
    var position = device.position
    for _ in 0..<count {
      switch device.skip(at: &position) {
      case .chain(let chain), .malformed(let chain, _): device.push(chain, length: 0)
      case .none: break
      }
    }
    device.take(to: position)
    device.publish()
  }
}

/// Bytes that differ from their neighbours.
func pattern(_ count: Int, seed: Int = 1) -> [UInt8] {
  (0..<count).map { UInt8(truncatingIfNeeded: ($0 &* 167) ^ ($0 >> 8) &+ seed) }
}
