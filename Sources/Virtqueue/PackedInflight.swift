// What a packed ring keeps in its in-flight region, and takes from it when it starts (vhost-user
// specification, "Inflight I/O tracking", packed virtqueues).
//
//   header   features 8, version 2, desc_num 2, free_head 2, old_free_head 2, used_idx 2,
//            old_used_idx 2, used_wrap_counter 1, old_used_wrap_counter 1, padding
//   entry    inflight 1, padding 1, next 2, last 2, num 2, counter 8, id 2, flags 2, len 4, addr 8
//
// Nothing in guest memory says where a packed ring stands, and a used descriptor takes the place of
// one that was offered.  So a batch is published in steps that the region can tell apart:
//
//   1. its descriptors are copied into entries 0, 1, 2, ...  (with old_free_head behind them)
//   2. free_head 0, then used_idx to where the batch ends    (with old_used_idx at its begin)
//   3. the used descriptors are written, the first one last
//   4. the entries are not in flight any more, old_free_head 0, then old_used_idx as used_idx
//
// Whoever comes after a crash looks at the descriptor at old_used_idx: if it is not an offered one
// of that lap any more, step 3 was done, else it was not, and what it may have overwritten is
// written back from the entries.  Between batches all entries are free, in order, so the list of
// free ones is never anything but 0, 1, 2, ...
//
// What another back-end left in flight is written back just so, in the order in which it was taken:
// those slots are the device's, whatever is in them, and the driver reads none of them.
//
// The used descriptors of a batch wait in `returned`, memory of our own that has the ring's shape.
import SharedRing

/// Offsets in the region.
enum PackedInflight {
  /// free_head and old_free_head, which are written together.
  static let freeHeads = 12
  /// Both used indices and both wrap counters, which are written together.
  static let position = 16

  static func entry(_ index: Int) -> Int { 32 + 32 * index }

  /// What `returned` holds where nothing waits: no used descriptor has all flags.
  static let nothing = UInt64.max

  static func word(used: QueuePosition, old: QueuePosition) -> UInt64 {
    UInt64(used.slot) | UInt64(old.slot) << 16 | UInt64(used.value >> 15) << 32
      | UInt64(old.value >> 15) << 40
  }

  /// The first word of an entry.
  static func link(inflight: Bool, next: Int, last: Int = 0, count: Int = 0) -> UInt64 {
    (inflight ? 1 : 0) | UInt64(next) << 16 | UInt64(last) << 32 | UInt64(count) << 48
  }
}

/// Used descriptors that wait to be published, in the shape of the ring.
@safe
final class ReturnedDescriptors {
  let base: UnsafeMutableRawPointer

  init(size: Int) {
    unsafe base = .allocate(byteCount: 16 * size, alignment: 16)
    unsafe base.initializeMemory(
      as: UInt64.self, repeating: PackedInflight.nothing, count: 2 * size)
  }

  deinit { unsafe base.deallocate() }
}

extension PackedRing {
  /// Publishes the batch from `publishedUsed` to `nextUsed`.
  @inline(never) @usableFromInline
  mutating func publishTracked(_ region: UnsafeMutableRawPointer) {
    let start = unsafe publishedUsed
    let end = unsafe nextUsed
    let slots = unsafe unpublishedSlots
    unsafe unpublishedSlots = 0
    // Only a head has to be offered: chains of a hostile driver may overlap and fill more than a
    // lap.  The region has no entries for that.
    guard unsafe slots <= size else {
      unsafe fault = .chainWithoutEnd
      unsafe heldIndex = -1
      return
    }
    unsafe copyBatch(from: start, slots: slots, to: region)
    sharedStoreOrder()
    unsafe region.storeRelaxed32(PackedInflight.freeHeads, UInt32(slots) << 16)
    sharedStoreOrder()
    unsafe region.storeRelaxed64(
      PackedInflight.position, PackedInflight.word(used: end, old: start))
    sharedStoreOrder()
    unsafe writeReturned(from: start, slots: slots)
    sharedStoreOrder()
    for i in 0..<slots {
      unsafe region.storeRelaxed64(
        PackedInflight.entry(i), PackedInflight.link(inflight: false, next: i + 1))
    }
    sharedStoreOrder()
    unsafe region.storeRelaxed32(PackedInflight.freeHeads, 0)
    sharedStoreOrder()
    unsafe region.storeRelaxed64(
      PackedInflight.position, PackedInflight.word(used: end, old: end))
    unsafe publishedUsed = end
    unsafe heldIndex = -1
  }

  /// Step 1.  Until old_free_head says so, none of it counts.
  private func copyBatch(
    from start: QueuePosition, slots: Int, to region: UnsafeMutableRawPointer
  ) {
    var position = start
    var head = 0
    for i in 0..<slots {
      let from = unsafe descriptors + 16 * position.slot
      let half = unsafe from.relaxed64(8)
      let entry = PackedInflight.entry(i)
      unsafe region.storeRelaxed64(entry, PackedInflight.link(inflight: false, next: i + 1))
      unsafe region.storeRelaxed64(entry + 8, UInt64(i))
      unsafe region.storeRelaxed64(entry + 16, half >> 32 | half << 32)
      unsafe region.storeRelaxed64(entry + 24, from.relaxed64(0))
      unsafe position = advanced(position, by: 1)
      let behind = unsafe returned.relaxed64(16 * position.slot + 8)
      let isLast = i + 1 == slots || behind != PackedInflight.nothing
      if isLast {
        unsafe region.storeRelaxed64(
          PackedInflight.entry(head),
          PackedInflight.link(inflight: true, next: head + 1, last: i, count: i + 1 - head))
        head = i + 1
      }
    }
    sharedStoreOrder()
    unsafe region.storeRelaxed32(
      PackedInflight.freeHeads, UInt32(slots) | UInt32(slots) << 16)
  }

  /// Step 3.
  private func writeReturned(from start: QueuePosition, slots: Int) {
    var position = start
    for _ in 1..<max(1, slots) {
      unsafe position = advanced(position, by: 1)
      let at = 16 * position.slot + 8
      let half = unsafe returned.relaxed64(at)
      guard half != PackedInflight.nothing else { continue }
      unsafe descriptors.storeRelaxed64(at, half)
      unsafe returned.storeRelaxed64(at, PackedInflight.nothing)
    }
    unsafe descriptors.release64(16 * start.slot + 8, heldUsed)
  }
}

extension PackedRing {
  private struct Chain {
    var counter: UInt64
    var head: Int
    /// Entries of its descriptors, in order.
    var entries: [Int]
  }

  /// Brings ring and region to the state between two batches, and says where that is.
  /// - Parameters:
  ///   - entries: of the region, at least as many as the ring has.
  ///   - base: where the front-end says that the ring stands; of use for a new region only.
  mutating func recover(
    _ region: UnsafeMutableRawPointer, entries: Int, base: QueuePosition
  ) throws(QueueFault) {
    if unsafe region.relaxed16(InflightHeader.version) == 0 {
      unsafe settle(region, entries: entries, at: base)
      unsafe region.storeRelaxed64(0, 0)
      unsafe region.storeRelaxed16(InflightHeader.entryCount, UInt16(entries))
      unsafe region.release16(InflightHeader.version, 1)
      return
    }
    let heads = unsafe region.relaxed32(PackedInflight.freeHeads)
    let word = unsafe region.relaxed64(PackedInflight.position)
    let used = try unsafe position(word, word >> 32)
    let old = try unsafe position(word >> 16, word >> 40)
    let flags = unsafe descriptors.acquire16(16 * old.slot + 14) & PackedDescriptor.owner
    let isPublished = used != old && flags != old.offeredFlags
    let chains = try unsafe chainsInFlight(
      region, entries: entries, freeHead: Int(isPublished ? heads & 0xffff : heads >> 16))
    let start = isPublished ? used : old
    unsafe writeBack(chains, region, from: start)
    // The last first: if this is cut short, what is left is still what comes first.
    for chain in chains.reversed() {
      let word = unsafe region.relaxed64(PackedInflight.entry(chain.head))
      unsafe region.storeRelaxed64(PackedInflight.entry(chain.head), word & ~0xff)
      sharedStoreOrder()
    }
    unsafe settle(region, entries: entries, at: start)
  }

  private func position(_ index: UInt64, _ wrap: UInt64) throws(QueueFault) -> QueuePosition {
    let slot = UInt16(truncatingIfNeeded: index)
    let wrap = UInt8(truncatingIfNeeded: wrap)
    guard unsafe Int(slot) < size, wrap <= 1 else { throw .badInflightRegion }
    return QueuePosition(slot | (wrap == 1 ? QueuePosition.wrapBit : 0))
  }

  /// In the order in which they were taken.
  private func chainsInFlight(
    _ region: UnsafeMutableRawPointer, entries: Int, freeHead: Int
  ) throws(QueueFault) -> [Chain] {
    var isFree = [Bool](repeating: false, count: entries)
    var next = freeHead
    while next < entries, !isFree[next] {
      isFree[next] = true
      next = unsafe Int(region.relaxed16(PackedInflight.entry(next) + 2))
    }
    var chains: [Chain] = []
    var slots = 0
    for head in 0..<entries where !isFree[head] {
      let word = unsafe region.relaxed64(PackedInflight.entry(head))
      guard word & 0xff != 0 else { continue }
      let counter = unsafe region.relaxed64(PackedInflight.entry(head) + 8)
      var chain = Chain(counter: counter, head: head, entries: [head])
      let count = Int(word >> 48)
      slots += count
      guard count > 0, unsafe slots <= size else { throw .badInflightRegion }
      var entry = head
      while chain.entries.count < count {
        entry = unsafe Int(region.relaxed16(PackedInflight.entry(entry) + 2))
        guard entry < entries else { throw .badInflightRegion }
        chain.entries.append(entry)
      }
      chains.append(chain)
    }
    return chains.sorted { ($0.counter, $0.head) < ($1.counter, $1.head) }
  }

  /// Offers the chains again, from `start` on.
  private func writeBack(
    _ chains: [Chain], _ region: UnsafeMutableRawPointer, from start: QueuePosition
  ) {
    var position = start
    for chain in chains {
      for entry in chain.entries {
        let half = unsafe region.relaxed64(PackedInflight.entry(entry) + 16)
        let owner = UInt64(PackedDescriptor.owner) << 48
        let flags = UInt64(position.offeredFlags) << 48
        let to = unsafe descriptors + 16 * position.slot
        unsafe to.storeRelaxed64(0, region.relaxed64(PackedInflight.entry(entry) + 24))
        unsafe to.storeRelaxed64(8, (half << 32 | half >> 32) & ~owner | flags)
        unsafe position = advanced(position, by: 1)
      }
    }
    sharedStoreOrder()
  }

  /// The state between two batches.  Nothing is in flight when this begins.
  private mutating func settle(
    _ region: UnsafeMutableRawPointer, entries: Int, at position: QueuePosition
  ) {
    for i in 0..<entries {
      unsafe region.storeRelaxed64(
        PackedInflight.entry(i), PackedInflight.link(inflight: false, next: i + 1))
    }
    sharedStoreOrder()
    unsafe region.storeRelaxed32(PackedInflight.freeHeads, 0)
    sharedStoreOrder()
    unsafe region.storeRelaxed64(
      PackedInflight.position, PackedInflight.word(used: position, old: position))
    sharedStoreOrder()
    unsafe nextAvail = position
    unsafe nextUsed = position
    unsafe publishedUsed = position
  }
}
