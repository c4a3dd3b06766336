// A driver and a device on one ring.
import GuestDriver
import GuestMemory
import Linux
import Virtqueue

enum Walked: Equatable {
  case bytes([UInt8])
  case malformed(ChainDefect)
}

final class Rig {
  let ram: GuestRAM
  let memory: GuestMemory
  let driver: DriverQueue
  var device: Virtqueue
  let readable: DeviceReadableBuffers
  let writable: DeviceWritableBuffers
  let capacity: Int
  let kick: EventDescriptor
  let call: EventDescriptor
  let error: EventDescriptor

  /// All that matters to the walk.
  static let features: VirtioFeatures = [.version1, .ringIndirectDesc]

  init(
    _ ram: GuestRAM? = nil, size: Int = 256, features: VirtioFeatures = Rig.features,
    start: UInt16 = 0, placement: DriverQueue.Placement = .modern, shuffled: UInt64? = nil,
    capacity: Int = 2048
  ) throws {
    self.ram = try ram ?? GuestRAM()
    memory = try self.ram.memory()
    driver = DriverQueue(
      in: self.ram, size: size, features: features, start: start, placement: placement,
      shuffled: shuffled)
    kick = try EventDescriptor()
    call = try EventDescriptor()
    error = try EventDescriptor()
    device = try Virtqueue(
      activating: driver.config(memory: memory, kick: kick, call: call, error: error))
    self.capacity = capacity
    readable = DeviceReadableBuffers(capacity: capacity)
    writable = DeviceWritableBuffers(capacity: capacity)
  }

  /// Takes the next head, if there is one, and returns it with length 0.
  func transmit() -> Walked? {
    guard device.availableHeads(1) > 0, let head = device.head(0) else { return nil }
    let walked = collect(head)
    device.pop(1)
    device.push(head, length: 0)
    device.publish()
    return walked
  }

  func collect(_ head: UInt16) -> Walked {
    if let defect = device.collect(head, into: readable) { return .malformed(defect) }
    return .bytes(copy(from: 0, length: readable.byteCount))
  }

  func copy(from offset: Int, length: Int) -> [UInt8] {
    unsafe [UInt8](unsafeUninitializedCapacity: length) { buffer, count in
      if let base = buffer.baseAddress, length > 0 {
        unsafe readable.copy(from: offset, length: length, to: base)
      }
      count = length
    }
  }

  /// Fills the next head with `parts` and returns it; nil if there is none.
  func receive(_ parts: [[UInt8]]) -> ChainDefect?? {
    guard device.availableHeads(1) > 0, let head = device.head(0) else { return nil }
    writable.removeAll()
    let defect = device.append(head, to: writable)
    var offset = 0
    if defect == nil {
      for part in parts where !part.isEmpty {
        unsafe part.withUnsafeBytes {
          unsafe writable.copy($0.baseAddress!, length: part.count, to: offset)
        }
        offset += part.count
      }
    }
    device.pop(1)
    device.push(head, length: UInt32(offset))
    device.publish()
    return .some(defect)
  }

  /// The chain at the next avail entry, walked in a direction; the head stays.
  func defect(writable: Bool = false) -> ChainDefect? {
    guard device.availableHeads(1) > 0, let head = device.head(0) else {
      preconditionFailure("nothing offered")
    }
    if !writable { return device.collect(head, into: readable) }
    self.writable.removeAll()
    return device.append(head, to: self.writable)
  }
}

/// Bytes that differ from their neighbours.
func pattern(_ count: Int, seed: Int = 1) -> [UInt8] {
  (0..<count).map { UInt8(truncatingIfNeeded: ($0 &* 167) ^ ($0 >> 8) &+ seed) }
}
