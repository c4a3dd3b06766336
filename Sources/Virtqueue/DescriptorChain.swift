// Walking a descriptor chain (virtio 1.3, 2.7.5 and 2.7.5.3).
//
// Hostile: every field, at every moment.  A descriptor is read once, as two 64-bit loads, into
// locals; the locals are checked and used.  The walk ends after as many steps as the table has
// entries, so a loop costs a bounded time.  There are two outcomes, the whole chain or the reason
// why it is malformed; a malformed chain is never taken for a shorter one, and its head goes back
// to the driver like any other.
//
// Any layout is taken: no descriptor has to be the header alone, or of any size; empty ones are
// skipped; an indirect table may come after direct descriptors (2.7.5.3.2) and may be longer than
// the ring, as Linux makes them.
public import GuestMemory
public import SharedRing

/// Why a chain is malformed.
public enum ChainDefect: UInt8, Equatable, Sendable, CaseIterable {
  /// More steps than the table has entries.
  case loop
  /// `next` is beyond the table.
  case nextOutOfRange
  /// A writable descriptor where the device only reads, or the other way round.
  case wrongDirection
  /// An address that is not guest memory.
  case unmapped
  /// An indirect table whose size is 0 or not a multiple of 16, or has more than 32768 entries.
  case badIndirectTable
  /// An indirect table inside an indirect table, or INDIRECT without the feature, or with NEXT.
  case badIndirectFlags
  /// More pieces of memory than we are ready to hold.
  case tooManyBuffers
  /// More than 4 GiB in all.
  case tooLong
}

@frozen @usableFromInline
struct Descriptor {
  @usableFromInline let address: UInt64
  @usableFromInline let length: UInt32
  @usableFromInline let flags: UInt16
  @usableFromInline let next: UInt16

  @usableFromInline static let next: UInt16 = 1
  @usableFromInline static let write: UInt16 = 2
  @usableFromInline static let indirect: UInt16 = 4
  /// The flags that say what kind of chain it is.
  @usableFromInline static let layout: UInt16 = 7

  /// One fetch of each half; both are locals afterwards.
  @unsafe @inlinable @inline(__always)
  init(at pointer: UnsafeMutableRawPointer) {
    address = unsafe pointer.relaxed64(0)
    let half = unsafe pointer.relaxed64(8)
    length = UInt32(truncatingIfNeeded: half)
    flags = UInt16(truncatingIfNeeded: half &>> 32)
    next = UInt16(truncatingIfNeeded: half &>> 48)
  }
}

extension SplitVirtqueue {
  @inlinable @inline(__always)
  func walk(_ head: UInt16, writable: Bool, into list: borrowing BufferList) -> ChainDefect? {
    var table = unsafe ring.value.descriptors
    var entries = unsafe ring.value.size
    var steps = entries
    var inTable = false
    var writable = writable
    var index = Int(head)
    while true {
      if steps == 0 { return .loop }
      steps &-= 1
      let descriptor = unsafe Descriptor(at: table + 16 &* index)
      if descriptor.flags & Descriptor.indirect != 0 {
        if inTable || descriptor.flags & Descriptor.next != 0 { return .badIndirectFlags }
        if unsafe !ring.value.indirect { return .badIndirectFlags }
        let length = descriptor.length
        if length == 0 || length & 15 != 0 || length > 16 * 32768 { return .badIndirectTable }
        guard let run = unsafe ring.value.readable.run(at: descriptor.address, length: length)
        else { return list.unmapped(descriptor.address, .table) }
        if unsafe run.length < Int(length) {
          return walkScattered(descriptor, writable: writable, into: list)
        }
        unsafe table = run.base
        entries = Int(length &>> 4)
        steps = entries
        index = 0
        inTable = true
        continue
      }
      if (descriptor.flags & Descriptor.write != 0) != writable {
        if !list.turn(toWritable: !writable) { return .wrongDirection }
        writable = true
      }
      if let defect = unsafe list.add(
        descriptor.address, descriptor.length,
        of: writable ? ring.value.writable : ring.value.readable)
      {
        return defect
      }
      if descriptor.flags & Descriptor.next == 0 { return nil }
      index = Int(descriptor.next)
      if index >= entries { return .nextOutOfRange }
    }
  }

  /// An indirect table that crosses the border of two regions: each entry is looked up by itself.
  @usableFromInline
  func walkScattered(
    _ table: Descriptor, writable: Bool, into list: borrowing BufferList
  ) -> ChainDefect? {
    let entries = Int(table.length >> 4)
    var writable = writable
    var index = 0
    for _ in 0..<entries {
      let address = table.address &+ UInt64(16 * index)
      guard let run = unsafe ring.value.readable.run(at: address, length: 16) else {
        return list.unmapped(address, .table)
      }
      // An entry has to lie in one piece; whether the rest is mapped makes no difference.
      if unsafe run.length < 16 { return list.unmapped(address, .none) }
      let descriptor = unsafe Descriptor(at: run.base)
      if descriptor.flags & Descriptor.indirect != 0 { return .badIndirectFlags }
      if (descriptor.flags & Descriptor.write != 0) != writable {
        if !list.turn(toWritable: !writable) { return .wrongDirection }
        writable = true
      }
      if let defect = unsafe list.add(
        descriptor.address, descriptor.length,
        of: writable ? ring.value.writable : ring.value.readable)
      {
        return defect
      }
      if descriptor.flags & Descriptor.next == 0 { return nil }
      index = Int(descriptor.next)
      if index >= entries { return .nextOutOfRange }
    }
    return .loop
  }
}

extension BufferList {
  /// Appends the memory of one descriptor, in as many runs as regions hold it.
  @inlinable @inline(__always)
  func add(_ address: UInt64, _ length: UInt32, of memory: CachedMemoryView) -> ChainDefect? {
    var address = address
    var left = length
    while left > 0 {
      guard let run = unsafe memory.run(at: address, length: left) else {
        return unmapped(address, .buffer)
      }
      if unsafe !append(run) { return .tooManyBuffers }
      // A run is at most `left` long and ends inside a region, which ends below 2^64.
      unsafe left &-= UInt32(truncatingIfNeeded: run.length)
      unsafe address &+= UInt64(truncatingIfNeeded: run.length)
    }
    return unsafe cells.value.bytes > Int(UInt32.max) ? .tooLong : nil
  }
}
