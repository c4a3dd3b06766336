// Walking a chain of a packed ring (virtio 1.3, 2.8.6 and 2.8.7).
//
// The chain is the descriptors from its position on, as far as NEXT goes, over the end of the ring
// too; the last one holds the buffer id.  So a chain is not skipped without finding its end: one
// that is found malformed is followed to the end, for its length and id, and one that has no end
// within a lap stops the queue, since nobody could say where the next chain begins.
//
// The descriptors of an indirect table come one after the other; WRITE is the only flag they have,
// and others are ignored.  DPDK's driver marks all of them so, also those of what it transmits, so
// where the device only reads, the mark is no defect.
//
// Hostile: every field, at every moment; see DescriptorChain.swift.
public import GuestMemory
public import SharedRing

extension PackedVirtqueue {
  @inlinable @inline(__always)
  func walk(
    at position: inout QueuePosition, writable: Bool, into list: borrowing BufferList
  ) -> ChainOutcome {
    var descriptor = unsafe PackedDescriptor(
      acquiring: ring.value.descriptors + 16 &* position.slot)
    if descriptor.flags & PackedDescriptor.owner != position.offeredFlags { return .none }
    if unsafe ring.value.fault != nil || ring.value.isStalled { return .none }
    var last = position
    var slots = 1
    var writable = writable
    while true {
      if let defect = add(descriptor, slots, writable: &writable, to: list) {
        if defect == .unmapped, stalls(list, writable: writable) { return .none }
        return follow(descriptor, slots, from: last, defect: defect, to: &position)
      }
      if descriptor.flags & PackedDescriptor.next == 0 { break }
      if unsafe slots == ring.value.size { return stopWithoutEnd() }
      slots &+= 1
      unsafe last = ring.value.advanced(last, by: 1)
      descriptor = unsafe PackedDescriptor(at: ring.value.descriptors + 16 &* last.slot)
    }
    unsafe position = ring.value.advanced(last, by: 1)
    return .chain(DescriptorChain(id: descriptor.id, slots: UInt16(truncatingIfNeeded: slots)))
  }

  @inlinable @inline(__always)
  public func skip(at position: inout QueuePosition) -> ChainOutcome {
    let head = unsafe PackedDescriptor(acquiring: ring.value.descriptors + 16 &* position.slot)
    if head.flags & PackedDescriptor.owner != position.offeredFlags { return .none }
    if unsafe ring.value.fault != nil || ring.value.isStalled { return .none }
    return follow(head, 1, from: position, defect: nil, to: &position)
  }

  /// Finds the end of a chain whose descriptor at `last` is number `slots` of it.
  @usableFromInline
  func follow(
    _ descriptor: PackedDescriptor, _ slots: Int, from last: QueuePosition, defect: ChainDefect?,
    to position: inout QueuePosition
  ) -> ChainOutcome {
    var descriptor = descriptor
    var slots = slots
    var last = last
    while descriptor.flags & PackedDescriptor.next != 0 {
      if unsafe slots == ring.value.size { return stopWithoutEnd() }
      slots += 1
      unsafe last = ring.value.advanced(last, by: 1)
      descriptor = unsafe PackedDescriptor(at: ring.value.descriptors + 16 &* last.slot)
    }
    unsafe position = ring.value.advanced(last, by: 1)
    let chain = DescriptorChain(id: descriptor.id, slots: UInt16(truncatingIfNeeded: slots))
    if let defect { return .malformed(chain, defect) }
    return .chain(chain)
  }

  @usableFromInline
  func stopWithoutEnd() -> ChainOutcome {
    unsafe ring.value.fault = .chainWithoutEnd
    return .none
  }

  @inlinable @inline(__always)
  func buffers(_ writable: Bool) -> CachedMemoryView {
    unsafe writable ? ring.value.writable : ring.value.readable
  }

  /// Adds descriptor number `slots` of a chain, or its indirect table.
  @inlinable @inline(__always)
  func add(
    _ descriptor: PackedDescriptor, _ slots: Int, writable: inout Bool,
    to list: borrowing BufferList
  ) -> ChainDefect? {
    if descriptor.flags & PackedDescriptor.indirect != 0 {
      // A chain is of one kind: no table behind direct descriptors, nothing behind a table.
      if slots > 1 || descriptor.flags & PackedDescriptor.next != 0 { return .badIndirectFlags }
      if unsafe !ring.value.indirect { return .badIndirectFlags }
      return addTable(descriptor, writable: writable, to: list)
    }
    if (descriptor.flags & PackedDescriptor.write != 0) != writable {
      if !list.turn(toWritable: !writable) { return .wrongDirection }
      writable = true
    }
    return list.add(descriptor.address, descriptor.length, of: buffers(writable))
  }

  @inlinable @inline(__always)
  func addTable(
    _ table: PackedDescriptor, writable: Bool, to list: borrowing BufferList
  ) -> ChainDefect? {
    let length = table.length
    if length == 0 || length & 15 != 0 || length > 16 * 32768 { return .badIndirectTable }
    guard let run = unsafe ring.value.readable.run(at: table.address, length: length) else {
      return list.unmapped(table.address, .table)
    }
    if unsafe run.length < Int(length) {
      return addScattered(table, writable: writable, to: list)
    }
    var offset = 0
    var writable = writable
    while offset < Int(length) {
      let entry = unsafe PackedDescriptor(at: run.base + offset)
      if (entry.flags & PackedDescriptor.write != 0) != writable {
        if list.turn(toWritable: !writable) {
          writable = true
        } else if writable {
          return .wrongDirection
        }
      }
      if let defect = list.add(entry.address, entry.length, of: buffers(writable)) {
        return defect
      }
      offset &+= 16
    }
    return nil
  }

  /// An indirect table that crosses the border of two regions: each entry is looked up by itself.
  @usableFromInline
  func addScattered(
    _ table: PackedDescriptor, writable: Bool, to list: borrowing BufferList
  ) -> ChainDefect? {
    var writable = writable
    for index in 0..<UInt64(table.length >> 4) {
      let address = table.address &+ 16 * index
      guard let run = unsafe ring.value.readable.run(at: address, length: 16) else {
        return list.unmapped(address, .table)
      }
      // An entry has to lie in one piece; whether the rest is mapped makes no difference.
      if unsafe run.length < 16 { return list.unmapped(address, .none) }
      let entry = unsafe PackedDescriptor(at: run.base)
      if (entry.flags & PackedDescriptor.write != 0) != writable {
        if list.turn(toWritable: !writable) {
          writable = true
        } else if writable {
          return .wrongDirection
        }
      }
      if let defect = list.add(entry.address, entry.length, of: buffers(writable)) {
        return defect
      }
    }
    return nil
  }
}
