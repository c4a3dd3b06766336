// What a split ring keeps in its in-flight region, and takes from it when it starts (vhost-user
// specification, "Inflight I/O tracking", split virtqueues).
//
//   header   features 8, version 2, desc_num 2, last_batch_head 2, used_idx 2
//   entry    inflight 1, padding 5, next 2, counter 8
//
// A head that this device takes is returned in the same turn and in order, so used->idx alone says
// what was completed, and what a successor sees in flight is always nothing: all that is kept is
// used_idx, with one store for a batch.  It is the sign that the last batch is done with.
//
// Another back-end may have left heads in flight, out of order; they are behind used->idx, and
// the available ring no longer says which they are.  They go back with length 0, in the order in
// which that back-end took them: a packet that nobody transmits is lost as on a wire, and an empty
// buffer comes back.  The steps are the specification's, so that this too may be cut short.
import SharedRing

/// Offsets in the region.
@frozen @usableFromInline
enum SplitInflight {
  static let lastBatchHead = 12
  @usableFromInline static let usedIdx = 14

  static func entry(_ index: Int) -> Int { 16 + 16 * index }
}

extension SplitRing {
  /// Finds the heads that another back-end left in flight, and returns them to the driver.
  /// - Parameter entries: of the region, at least as many as the ring has.
  mutating func recover(_ region: UnsafeMutableRawPointer, entries: Int) throws(QueueFault) {
    let used = unsafe nextUsed
    if unsafe region.relaxed16(InflightHeader.version) == 0 {
      for i in 0..<entries { unsafe region.storeRelaxed64(SplitInflight.entry(i), 0) }
      unsafe region.storeRelaxed64(0, 0)
      unsafe region.storeRelaxed16(InflightHeader.entryCount, UInt16(entries))
      unsafe region.storeRelaxed16(SplitInflight.lastBatchHead, 0)
      unsafe region.storeRelaxed16(SplitInflight.usedIdx, used.value)
      unsafe region.release16(InflightHeader.version, 1)
      return
    }
    try unsafe finishBatch(region, entries: entries)
    // Before the list of the next batch begins: it would be taken for the one that was just done.
    sharedStoreOrder()
    unsafe region.storeRelaxed16(SplitInflight.usedIdx, used.value)
    sharedStoreOrder()
    let heads = try unsafe headsInFlight(region, entries: entries)
    if !heads.isEmpty {
      if unsafe !areNextInRing(heads) { unsafe returnEmpty(heads, region) }
      unsafe clear(heads, region)
    }
    unsafe region.release16(SplitInflight.usedIdx, nextUsed.value)
  }

  /// The batch that was published last may still be marked as in flight: it is as long as used->idx
  /// is ahead of the region's.
  private func finishBatch(
    _ region: UnsafeMutableRawPointer, entries: Int
  ) throws(QueueFault) {
    let known = unsafe RingIndex(region.relaxed16(SplitInflight.usedIdx))
    let count = unsafe nextUsed.distance(from: known)
    // Further apart than a batch can be: an area that is older than the ring.  Whether that
    // matters is decided by what is in flight.
    guard count > 0, count <= entries else { return }
    var head = unsafe Int(region.relaxed16(SplitInflight.lastBatchHead))
    for _ in 0..<count {
      guard head < entries else { throw .badInflightRegion }
      let word = unsafe region.relaxed64(SplitInflight.entry(head))
      unsafe region.storeRelaxed64(SplitInflight.entry(head), word & ~0xff)
      head = Int(truncatingIfNeeded: word &>> 48)
    }
  }

  /// In the order in which they were taken.
  private func headsInFlight(
    _ region: UnsafeMutableRawPointer, entries: Int
  ) throws(QueueFault) -> [UInt16] {
    var found: [(counter: UInt64, head: UInt16)] = []
    for head in 0..<entries {
      let entry = SplitInflight.entry(head)
      guard unsafe region.relaxed64(entry) & 0xff != 0 else { continue }
      // The driver never offered more than its ring has descriptors.
      guard unsafe head < size else { throw .badInflightRegion }
      found.append((unsafe region.relaxed64(entry + 8), UInt16(head)))
    }
    guard unsafe found.count <= availIdx.distance(from: nextAvail) else {
      throw .badInflightRegion
    }
    return found.sorted { $0 < $1 }.map(\.head)
  }

  /// Whether the ring offers just these heads next, so that they are taken again by themselves.
  private func areNextInRing(_ heads: [UInt16]) -> Bool {
    for (i, head) in heads.enumerated() {
      let position = unsafe nextAvail.advanced(by: i)
      if unsafe availRing(position) != head { return false }
    }
    return true
  }

  private mutating func returnEmpty(_ heads: [UInt16], _ region: UnsafeMutableRawPointer) {
    for head in heads {
      let entry = SplitInflight.entry(Int(head))
      let last = unsafe region.relaxed16(SplitInflight.lastBatchHead)
      unsafe region.storeRelaxed64(entry, 1 | UInt64(last) << 48)
      sharedStoreOrder()
      unsafe region.storeRelaxed16(SplitInflight.lastBatchHead, head)
      unsafe writeUsed(nextUsed, head: head, length: 0)
      unsafe nextUsed.advance(by: 1)
    }
    // They were taken from the available ring before, in whatever order.
    unsafe nextAvail = nextUsed
    unsafe availIndex = nextUsed
    unsafe publishUsedIdx(nextUsed)
  }

  /// The last first: if this is cut short, what is left are still the heads that come next.
  private func clear(_ heads: [UInt16], _ region: UnsafeMutableRawPointer) {
    for head in heads.reversed() {
      let entry = SplitInflight.entry(Int(head))
      let word = unsafe region.relaxed64(entry)
      unsafe region.storeRelaxed64(entry, word & ~0xff)
      sharedStoreOrder()
    }
  }
}
