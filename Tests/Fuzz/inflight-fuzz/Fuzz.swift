// Fuzzes what a front-end gives back as the in-flight area of a device that died: its shape, and every
// byte of the region that a ring begins from.
//
// The input chooses a ring, says where the area lies in its file, and is ring and area themselves; then
// come turns, between which the area may change under the running queue.  Checked besides what the
// sanitizer sees: bytes of the file around the area stay as they were, an area that was taken once is
// taken again with the same position, and a queue offers no more chains than it has entries.
import Fuzzing
import Glibc
import GuestDriver
import GuestMemory
import Linux
import Virtqueue

/// What inputs must come to.
enum Goal: Int, CaseIterable {
  case shapeRefused, headerRefused, otherFormat
  case splitNew, splitTaken, splitRefused, splitReturned
  case packedNew, packedTaken, packedRefused, packedWrittenBack
  case splitRan, packedRan, changedUnderQueue
}

let goals = Goals(Goal.self)

/// The file that the area lies in; the bytes around the area have one value.
@safe
final class AreaFile {
  static let size = 8192
  private static let around: UInt8 = 0xc5
  let file: OwnedDescriptor
  private let mapping: Mapping
  private let untouched: UnsafeMutableRawPointer

  init() throws(Errno) {
    file = try OwnedDescriptor.sealedMemory(name: "area", length: AreaFile.size)
    mapping = try Mapping(
      length: AreaFile.size, descriptor: file.raw, flags: CInt(MAP_SHARED))
    unsafe untouched = .allocate(byteCount: AreaFile.size, alignment: 64)
    unsafe untouched.initializeMemory(
      as: UInt8.self, repeating: AreaFile.around, count: AreaFile.size)
  }

  deinit { unsafe untouched.deallocate() }

  func fill(_ bytes: [UInt8], at offset: Int, count: Int) {
    unsafe mapping.base.copyMemory(from: untouched, byteCount: AreaFile.size)
    let place = unsafe mapping.base + offset
    unsafe memset(place, 0, count)
    unsafe bytes.withUnsafeBytes {
      guard let base = $0.baseAddress else { return }
      unsafe place.copyMemory(from: base, byteCount: min(count, $0.count))
    }
  }

  func store(_ byte: UInt8, at offset: Int) {
    unsafe mapping.base.storeBytes(of: byte, toByteOffset: offset, as: UInt8.self)
  }

  func half(_ offset: Int) -> UInt16 {
    unsafe mapping.base.loadUnaligned(fromByteOffset: offset, as: UInt16.self)
  }

  func check(around offset: Int, _ count: Int) {
    let before = unsafe memcmp(mapping.base, untouched, offset)
    let behind = unsafe memcmp(
      mapping.base + offset + count, untouched, AreaFile.size - offset - count)
    require(before == 0 && behind == 0, "bytes around an area of \(count) were written")
  }
}

final class Fixture: @unchecked Sendable {
  let ram: GuestRAM
  let memory: GuestMemory
  let area: AreaFile
  let start: GuestRAM.Mark

  init() throws {
    ram = try GuestRAM(bytes: 4096)
    memory = try ram.memory()
    area = try AreaFile()
    start = ram.mark
  }
}

/// The area as the input describes it, if it has one that is big enough to be looked at.
private func mapped(
  _ input: inout Input, _ fixture: Fixture, _ format: InflightFormat, ring size: Int
) -> (area: InflightArea, offset: Int, bytes: Int)? {
  let shape = input.byte()
  let queues = 1 + Int(shape & 1)
  let entries = shape & 6 == 0 ? Int(input.byte()) : size + Int(shape >> 1 & 3) - 1
  let bytes = format.areaBytes(queues: queues, entries: entries)
  let offset = 8 * (1 + Int(input.byte()))
  guard offset + bytes + 64 <= AreaFile.size else { return nil }
  let content = input.bytes(min(bytes, Int(input.half())))
  fixture.area.fill(content, at: offset, count: bytes)
  if shape & 0x10 != 0 {
    // A header that is believed: hardly any input would have one.
    for queue in 0..<queues {
      let header = offset + queue * (bytes / queues)
      for i in 0..<8 { fixture.area.store(0, at: header + i) }
      for (i, byte) in [1, 0, UInt8(entries & 255), UInt8(entries >> 8)].enumerated() {
        fixture.area.store(byte, at: header + 8 + i)
      }
    }
  }
  // Mostly a size and an offset as they should be.
  let wrong = shape & 0xe0 == 0
  do throws(InflightDefect) {
    let area = try InflightArea(
      file: fixture.area.file, offset: wrong ? input.word() : UInt64(offset),
      size: wrong ? input.word() : UInt64(bytes), queueCount: queues, entryCount: entries,
      mostQueues: 2, format: format)
    return wrong ? nil : (area, offset, bytes)
  } catch {
    let isHeader = if case .header = error { true } else { false }
    goals.reach(isHeader ? Goal.headerRefused : .shapeRefused)
    require(!error.description.isEmpty, "a refusal without a word")
    return nil
  }
}

func run(_ fixture: Fixture, _ bytes: UnsafeRawBufferPointer) {
  var input = unsafe Input(bytes)
  let choice = input.byte()
  let isPacked = choice & 1 != 0
  let size = isPacked ? [1, 3, 7, 16][Int(choice >> 1 & 3)] : [1, 2, 8, 16][Int(choice >> 1 & 3)]
  var features: VirtioFeatures = isPacked ? [.version1, .ringPacked] : [.version1]
  if choice & 8 != 0 { features.insert(.ringIndirectDesc) }
  let format: InflightFormat = isPacked ? .packed : .split
  // An area whose regions were made for the other format.
  let isOther = choice & 0xf0 == 0xf0
  guard
    let (area, offset, length) = mapped(
      &input, fixture, isOther ? (isPacked ? .split : .packed) : format, ring: size)
  else { return }
  fixture.ram.release(to: fixture.start)
  let driver = ringDriver(in: fixture.ram, size: size, features: features)
  var config = driver.config(0, fixture.memory)
  config.inflight = area
  config.base = VringBase(rawValue: UInt32(input.half()) | UInt32(input.half()) << 16)
  // The ring, whose fields lie at the beginning of memory.
  for (i, byte) in input.bytes(Int(input.byte())).enumerated() where byte != 0 {
    fixture.ram.write([byte], at: GuestAddress(UInt64(i)))
  }
  let isNew = fixture.area.half(offset + 8) == 0
  let first = activated(config, isPacked)
  fixture.area.check(around: offset, length)
  if isOther { goals.reach(Goal.otherFormat) }
  guard let first else { return }
  if isNew {
    goals.reach(isPacked ? Goal.packedNew : .splitNew)
  } else {
    goals.reach(isPacked ? Goal.packedTaken : .splitTaken)
    if isPacked, fixture.ram.read(GuestAddress(16), count: 16) != [UInt8](repeating: 0, count: 16) {
      goals.reach(Goal.packedWrittenBack)
    }
    if !isPacked, first.rawValue != 0 { goals.reach(Goal.splitReturned) }
  }
  // As after one more crash before the first turn: nothing has happened.
  let second = activated(config, isPacked)
  require(first == second, "begins at \(first), and then at \(String(describing: second))")
  turns(config, isPacked) {
    // The front-end writes the area when it likes.
    let change = Int(input.half())
    guard change & 0x8000 != 0, length > 0 else { return }
    fixture.area.store(input.byte(), at: offset + (change & 0x7fff) % length)
    goals.reach(Goal.changedUnderQueue)
  }
  fixture.area.check(around: offset, length)
  // Whatever is in the area now.
  _ = activated(config, isPacked)
  fixture.area.check(around: offset, length)
}

/// Starts the ring; where it stands then, or nil.
private func activated(_ config: VirtqueueConfig, _ isPacked: Bool) -> VringBase? {
  do throws(QueueFault) {
    let queue = try AnyVirtqueue(activating: config)
    return queue.base
  } catch {
    goals.reach(isPacked ? Goal.packedRefused : .splitRefused)
    return nil
  }
}

private func turns(_ config: VirtqueueConfig, _ isPacked: Bool, _ between: () -> Void) {
  guard let queue = try? AnyVirtqueue(activating: config) else {
    fatalError("refused the third time")
  }
  let buffers = DeviceReadableBuffers(capacity: 16)
  for _ in 0..<4 {
    var position = queue.position
    let waiting = queue.availableChains(64)
    require(waiting <= queue.size, "\(waiting) chains of a ring of \(queue.size)")
    var taken = 0
    chains: while taken < waiting {
      switch queue.collect(at: &position, into: buffers) {
      case .chain(let chain), .malformed(let chain, _): queue.push(chain, length: 0)
      case .none: break chains
      }
      taken += 1
    }
    if taken > 0 { goals.reach(isPacked ? Goal.packedRan : .splitRan) }
    queue.take(to: position)
    between()
    queue.publish()
    if queue.fault != nil { return }
  }
}

private let fixture: Fixture = {
  do { return try Fixture() } catch { fatalError("memory: \(error)") }
}()

@main struct Fuzz {
  static func main() { unsafe fuzz(goals) { unsafe run(fixture, $0) } }
}
