// A queue behind a vIOMMU (vhost-user specification, "IOMMU support"; ACCESS_PLATFORM).
//
// A walk that comes to an address without translation is neither a chain nor a malformed one: the
// chain is not taken, nothing is undone, and the queue offers nothing more until the control plane
// has asked the front-end and given it new translations.  If the front-end has none, that one chain
// is malformed.
public import GuestMemory
public import Linux
public import SharedRing
import Synchronization

/// What a queue needs to run behind a vIOMMU.
public struct QueueTranslation: Sendable {
  public var table: Translations
  public var ring: RingMapping
  /// Takes what the queue waits for; its worker posts.
  public var misses: Mailbox<TranslationMiss>

  public init(table: Translations, ring: RingMapping, misses: Mailbox<TranslationMiss>) {
    self.table = table
    self.ring = ring
    self.misses = misses
  }
}

extension VirtqueueConfig {
  /// What of the ring must be mapped, by I/O virtual addresses: what ring addresses are behind a
  /// vIOMMU.
  public var ringParts: [RingPart] {
    func part(_ address: FrontEndAddress, _ size: Int, _ access: Access) -> RingPart {
      RingPart(address: IOVirtualAddress(address.value), size: size, access: access)
    }
    if features.contains(.ringPacked) {
      return [
        part(descriptorTable, 16 * size, [.read, .write]), part(availRing, 4, .read),
        part(usedRing, 4, .write),
      ]
    }
    return unsafe [
      part(descriptorTable, SplitRing.descriptorBytes(size: size), .read),
      part(availRing, SplitRing.availBytes(size: size), .read),
      part(usedRing, SplitRing.usedBytes(size: size), .write),
    ]
  }

  /// Host pointer of `length` bytes of the ring at an address of this configuration.
  func ring(at address: FrontEndAddress, length: Int) -> UnsafeMutableRawPointer? {
    guard let translation else { return unsafe memory.ring(at: address, length: length) }
    return unsafe translation.ring.pointer(at: IOVirtualAddress(address.value), length: length)
  }

  /// What buffers are looked up in that the device reads, indirect tables among them.
  var readable: GuestMemoryView { translation?.table.readable ?? memory.view }
  /// What buffers are looked up in that the device writes.
  var writable: GuestMemoryView { translation?.table.writable ?? memory.view }
}

/// What a running queue keeps of its translations beside its ring.
@usableFromInline
struct TranslationState: ~Copyable {
  @usableFromInline
  struct Cells {
    /// Keeps what the queue's views point into; nil: no vIOMMU.
    var table: Translations?
    /// The ring itself is mapped as long as the queue runs.
    let ring: RingMapping?
    var miss: TranslationMiss?
    var isReported = false
    var refused: TranslationMiss?
  }
  @usableFromInline let cells: HotState<Cells>
  /// Counts the chains of all queues that wait, so that an answer never meets another one than it
  /// is for.
  private static let chains = Atomic<UInt64>(0)

  init(_ config: VirtqueueConfig) {
    cells = HotState(Cells(table: config.translation?.table, ring: config.translation?.ring))
  }

  /// Whether a walk that came to this address waits for its translation; false if there is no
  /// vIOMMU, or the front-end has refused this one.
  @usableFromInline @inline(never)
  func waits(for miss: TranslationMiss) -> Bool {
    guard cells.value.table != nil else { return false }
    if let refused = cells.value.refused {
      cells.value.refused = nil
      if refused.isSame(as: miss) { return false }
    }
    // Still the same, after a change of other translations.
    if let former = cells.value.miss, former.isSame(as: miss) { return true }
    var miss = miss
    miss.chain = TranslationState.chains.wrappingAdd(1, ordering: .relaxed).newValue
    cells.value.miss = miss
    cells.value.isReported = false
    return true
  }

  /// What is waited for, once.
  func takeMiss() -> TranslationMiss? {
    guard let miss = cells.value.miss, !cells.value.isReported else { return nil }
    cells.value.isReported = true
    return miss
  }

  func replace(_ table: Translations) {
    cells.value.table = table
    guard let miss = cells.value.miss else { return }
    let view = miss.access == .write ? table.writable : table.readable
    if unsafe view.run(at: miss.address.value, length: 1) != nil { cells.value.miss = nil }
  }

  /// Returns whether it was waited for.
  func refuse(_ miss: TranslationMiss) -> Bool {
    guard cells.value.miss == miss else { return false }
    cells.value.miss = nil
    cells.value.refused = miss
    return true
  }
}
