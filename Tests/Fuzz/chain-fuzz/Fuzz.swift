// Fuzzes what a guest writes: descriptors, indirect tables, rings.
//
// The input is the guest's memory from address 0 on, behind four bytes that choose the ring (packed
// ones: PackedFuzz.swift).  Every chain that the ring offers is walked in both directions and compared
// with the specification's model; then bytes are written into it, wherever it points (the ring itself
// is fair game), and the head is returned.  A walk without end is libFuzzer's -timeout.
//
//   FUZZ=1 swift build -c release --scratch-path .build-fuzz --product chain-fuzz
//   .build-fuzz/release/chain-fuzz -max_total_time=60 -timeout=5
import Fuzzing
import GuestDriver
import GuestMemory
import Virtqueue

/// A memory that is set up once; rings of every size in it, all at its beginning.
final class Guest {
  /// Two regions that touch and one beyond 4 GiB.
  static let regions: [(guest: UInt64, size: UInt64)] = [
    (0, 8192), (8192, 8192), (1 << 32, 4096),
  ]
  let ram: GuestRAM
  let memory: GuestMemory
  let queues: [DriverQueue]
  let packedQueues: [PackedDriverQueue]

  init() throws {
    ram = try GuestRAM(Guest.regions)
    memory = try ram.memory()
    let start = ram.mark
    var queues: [DriverQueue] = []
    for features in [[.version1], [.version1, .ringIndirectDesc]] as [VirtioFeatures] {
      for exponent in 0..<6 {
        ram.release(to: start)
        queues.append(DriverQueue(in: ram, size: 1 << exponent, features: features))
      }
    }
    self.queues = queues
    var packedQueues: [PackedDriverQueue] = []
    for features in [[.ringPacked], [.ringPacked, .ringIndirectDesc]] as [VirtioFeatures] {
      for size in [1, 2, 3, 7, 16] {
        ram.release(to: start)
        packedQueues.append(
          PackedDriverQueue(in: ram, size: size, features: features.union(.version1)))
      }
    }
    self.packedQueues = packedQueues
  }

  func load(_ bytes: UnsafeRawBufferPointer) {
    for region in Guest.regions {
      let base = unsafe ram.pointer(GuestAddress(region.guest), length: Int(region.size))
      unsafe base.initializeMemory(as: UInt8.self, repeating: 0, count: Int(region.size))
    }
    var rest = unsafe bytes
    for region in Guest.regions where rest.count > 0 {
      let count = min(rest.count, Int(region.size))
      let base = unsafe ram.pointer(GuestAddress(region.guest), length: count)
      unsafe base.copyMemory(from: rest.baseAddress!, byteCount: count)
      unsafe rest = UnsafeRawBufferPointer(rebasing: rest[count...])
    }
  }
}

/// The short way to a chain, where there is one, must come to what the walk finds.
func check(
  _ single: SingleBuffer?, _ outcome: ChainOutcome, _ position: QueuePosition, _ byteCount: Int
) {
  guard let single else { return }
  guard outcome == .chain(single.chain), position == single.next,
    byteCount == single.byteCount
  else { fatalError("a single buffer where the walk finds \(outcome) of \(byteCount) bytes") }
}

extension ChainModel {
  /// The first descriptor of the chain points to a table.
  func startsTable(_ head: UInt16) -> Bool {
    let flags = ram.read(GuestAddress(descriptorTable.value + 16 * UInt64(head) + 12), count: 1)
    return UInt16(flags[0]) & DescriptorFlags.indirect != 0
  }
}

/// Compares one direction of one chain; returns the bytes in it if it is valid.
func check(
  _ head: UInt16, _ queue: borrowing AnyVirtqueue, _ model: ChainModel, writable: Bool,
  _ readableBuffers: borrowing DeviceReadableBuffers,
  _ writableBuffers: borrowing DeviceWritableBuffers
) -> Int? {
  let expected = model.walk(head, writable: writable)
  writableBuffers.removeAll()
  var position = queue.position
  let single = queue.single(at: position, writable: writable)
  let outcome =
    writable
    ? queue.append(at: &position, to: writableBuffers)
    : queue.collect(at: &position, into: readableBuffers)
  check(
    single, outcome, position, writable ? writableBuffers.byteCount : readableBuffers.byteCount)
  let defect: ChainDefect?
  switch outcome {
  case .chain: defect = nil
  case .malformed(_, let reason): defect = reason
  case .none: fatalError("the chain is gone")
  }
  switch expected {
  case .malformed(let reason):
    guard defect == reason else {
      fatalError("\(reason) expected, not \(String(describing: defect))")
    }
    if let goal = Goal(reason, isPacked: false) { goals.reach(goal) }
    return nil
  case .runs(let runs):
    guard defect == nil else { fatalError("valid, but \(defect!)") }
    let bytes = runs.reduce(0) { $0 + $1.length }
    let counted = writable ? writableBuffers.byteCount : readableBuffers.byteCount
    guard counted == bytes else { fatalError("\(counted) bytes instead of \(bytes)") }
    if bytes > 0 { goals.reach(model.startsTable(head) ? Goal.splitTable : .splitDirect) }
    if !writable, bytes > 0 {
      let length = min(bytes, scratchBytes)
      unsafe readableBuffers.copy(from: bytes - length, length: length, to: scratch)
      unsafe readableBuffers.copy(from: 0, length: length, to: scratch)
      let compared = min(length, 256)
      let copied = unsafe Array(UnsafeRawBufferPointer(start: scratch, count: compared))
      var left = compared
      var wanted: [UInt8] = []
      for run in runs where left > 0 {
        let part = min(left, run.length)
        wanted += model.ram.read(GuestAddress(run.address), count: part)
        left -= part
      }
      guard copied == wanted else { fatalError("other bytes than the chain's") }
    }
    return bytes
  }
}

let scratchBytes = 65536
nonisolated(unsafe) let scratch = UnsafeMutableRawPointer.allocate(
  byteCount: scratchBytes, alignment: 16)

func run(_ guest: Guest, _ input: UnsafeRawBufferPointer) {
  guard input.count > 4 else { return }
  let choice = unsafe Int(input[0])
  if choice >= 128 {
    unsafe runPacked(guest, guest.packedQueues[choice % guest.packedQueues.count], input)
    return
  }
  let driver = guest.queues[choice % guest.queues.count]
  let capacity = unsafe [1, 4, 64, 256][Int(input[1]) % 4]
  unsafe guest.load(UnsafeRawBufferPointer(rebasing: input[4...]))
  // Without this hardly any input would get beyond the check of the index.
  let offered = unsafe UInt16(Int(input[2]) % (driver.size + 2))
  driver.pokeAvailIndex(driver.publishedUsedIndex &+ offered)
  guard let queue = try? AnyVirtqueue(activating: driver.config(memory: guest.memory)) else {
    fatalError("a good configuration was refused")
  }
  let model = ChainModel(driver, capacity: capacity)
  let readable = DeviceReadableBuffers(capacity: capacity)
  let writable = DeviceWritableBuffers(capacity: capacity)
  for turn in 0..<8 {
    let waiting = queue.availableChains(4)
    if waiting > driver.size { fatalError("\(waiting) chains of a ring of \(driver.size)") }
    if waiting == 0 { break }
    var position = queue.position
    guard case .chain(let chain) = queue.skip(at: &position) else {
      if queue.fault == nil { fatalError("no chain and no fault") }
      if queue.availableChains(1) != 0 { fatalError("chains in spite of the fault") }
      goals.reach(Goal.splitFault)
      break
    }
    let head = chain.id
    if Int(head) >= driver.size { fatalError("head \(head) of a ring of \(driver.size)") }
    _ = check(head, queue, model, writable: false, readable, writable)
    let room = check(head, queue, model, writable: true, readable, writable)
    if let room, room > 0 {
      // The odd turns write from the end.
      let length = min(room, scratchBytes)
      unsafe writable.copy(scratch, length: length, to: turn % 2 == 0 ? 0 : room - length)
    }
    queue.take(to: position)
    queue.push(chain, length: UInt32(truncatingIfNeeded: room ?? 0))
    queue.publish()
    _ = queue.needsCall()
    _ = queue.enableKicks()
    queue.disableKicks()
  }
}

nonisolated(unsafe) let guest: Guest = {
  do { return try Guest() } catch { fatalError("guest memory: \(error)") }
}()

@main struct Fuzz {
  static func main() {
    unsafe scratch.initializeMemory(as: UInt8.self, repeating: 0x5a, count: scratchBytes)
    unsafe fuzz(goals) { unsafe run(guest, $0) }
  }
}
