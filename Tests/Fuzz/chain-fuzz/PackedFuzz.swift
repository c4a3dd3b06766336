// The part of chain-fuzz for packed rings: what a position offers is compared with the
// specification's model, in both directions, before the chain is taken and returned.
import Fuzzing
import GuestDriver
import GuestMemory
import Virtqueue

func runPacked(_ guest: Guest, _ driver: PackedDriverQueue, _ input: UnsafeRawBufferPointer) {
  let capacity = unsafe [1, 4, 64, 256][Int(input[1]) % 4]
  let start = unsafe PackedDriverQueue.Place(
    index: Int(input[2]) % driver.size, wrap: input[3] & 1 == 0)
  // A ring that cannot stand where it is said to is refused; what follows may be anything.
  driver.pokeHistory(before: start)
  var config = driver.config(memory: guest.memory)
  config.base = VringBase(packed: start.position, used: start.position)
  guard let queue = try? AnyVirtqueue(activating: config) else {
    fatalError("a good configuration was refused")
  }
  unsafe guest.load(UnsafeRawBufferPointer(rebasing: input[4...]))
  // Without this hardly any input would offer a chain.
  var place = start
  for _ in 0..<(unsafe Int(input[3] >> 1) % (driver.size + 1)) {
    var descriptor = driver.descriptor(place.index)
    descriptor.flags = descriptor.flags & 0x7f7f | place.offered
    driver.pokeDescriptor(place.index, descriptor)
    place.advance(1, in: driver.size)
  }
  let model = PackedChainModel(driver, capacity: capacity)
  let readable = DeviceReadableBuffers(capacity: capacity)
  let writable = DeviceWritableBuffers(capacity: capacity)
  for turn in 0..<8 {
    let waiting = queue.availableChains(64)
    if waiting > driver.size { fatalError("\(waiting) chains of a ring of \(driver.size)") }
    var position = queue.position
    for isWritable in [false, true] {
      writable.removeAll()
      let expected = model.walk(at: queue.position, writable: isWritable)
      position = queue.position
      let single = queue.single(at: position, writable: isWritable)
      let outcome =
        isWritable
        ? queue.append(at: &position, to: writable) : queue.collect(at: &position, into: readable)
      let bytes = isWritable ? writable.byteCount : readable.byteCount
      check(single, outcome, position, bytes)
      switch (expected, outcome) {
      case (.none, .none): guard queue.fault == nil else { fatalError("a fault of nothing") }
      case (.fault, .none):
        guard queue.fault != nil else { fatalError("no fault") }
        goals.reach(Goal.packedFault)
      case (.malformed(let chain, let reason), .malformed(let found, let defect)):
        guard chain == found, reason == defect else { fatalError("\(expected), not \(outcome)") }
        if let goal = Goal(reason, isPacked: true) { goals.reach(goal) }
      case (.runs(let chain, let runs), .chain(let found)):
        guard chain == found, bytes == runs.reduce(0, { $0 + $1.length }) else {
          fatalError("\(expected), not \(outcome) of \(bytes) bytes")
        }
        let head = driver.descriptor(Int(queue.position.value & 0x7fff))
        let isTable = head.flags & DescriptorFlags.indirect != 0
        if bytes > 0 { goals.reach(isTable ? Goal.packedTable : .packedDirect) }
      default: fatalError("\(expected), not \(outcome)")
      }
      if queue.fault != nil {
        if queue.availableChains(1) != 0 { fatalError("chains in spite of the fault") }
        return
      }
    }
    position = queue.position
    guard case .chain(let chain) = queue.skip(at: &position) else { return }
    let room = min(writable.byteCount, scratchBytes)
    if case .runs = model.walk(at: queue.position, writable: true), room > 0 {
      // The odd turns write from the end; the ring itself is fair game.
      unsafe writable.copy(
        scratch, length: room, to: turn % 2 == 0 ? 0 : writable.byteCount - room)
    }
    queue.take(to: position)
    queue.push(chain, length: UInt32(room))
    queue.publish()
    _ = queue.needsCall()
    _ = queue.enableKicks()
    queue.disableKicks()
  }
}
