// A running virtqueue, device side, whatever its format.
//
// It is born on its worker from a checked configuration and dies there; nobody else ever touches
// it.  The verbs are those that both formats have (virtio 1.3, 2.7 and 2.8).  `collect`, `append`
// and `skip` look at the chain at a position, which is the caller's own variable and moves on:
// looking comes first, `take` commits, so nothing is ever undone.  `push` writes used elements,
// `publish` makes all of them visible at once; a packet over several buffers needs exactly that.
//
// Chains go back in the order they were taken, always: after a crash of this process a front-end
// restarts a split ring from used->idx alone, and a packed ring can be walked on from where used
// and available descriptors meet.
//
// The format is chosen once for a queue (`AnyVirtqueue`); code that runs for every packet is
// generic over this protocol, inlined and specialised for each format.
//
// Hostile: everything in the rings.  A bad chain costs that chain; a ring that is impossible
// (`QueueFault`) stops this queue: it offers no chains any more.
public import GuestMemory

/// A place among the chains that the driver offers.  Split: the free-running index into the
/// available ring.  Packed: bits 0 to 14 the descriptor, bit 15 the wrap counter.
@frozen
public struct QueuePosition: Equatable, Sendable, BitwiseCopyable {
  public var value: UInt16
  @inlinable @inline(__always)
  public init(_ value: UInt16) { self.value = value }
}

/// A chain that was looked at: what is needed to return it.
@frozen
public struct DescriptorChain: Equatable, Sendable, BitwiseCopyable {
  /// Split: the head; packed: the buffer id.
  public var id: UInt16
  /// Entries of the ring of descriptors that it takes: in a split ring always one, of the
  /// available ring.
  public var slots: UInt16
  @inlinable @inline(__always)
  public init(id: UInt16, slots: UInt16) {
    self.id = id
    self.slots = slots
  }
}

/// What a look at a position found.
@frozen
public enum ChainOutcome: Equatable, Sendable {
  /// A chain; its buffers are in the list, and the position is behind it.
  case chain(DescriptorChain)
  /// A chain that is of no use, nor is the list; it can and must be returned like any other, and
  /// the position is behind it.
  case malformed(DescriptorChain, ChainDefect)
  /// No chain, or none that can be returned (see `fault`), or one that waits for a translation (see
  /// `takeMiss`); the position has not moved.
  case none
}

public protocol Virtqueue: ~Copyable {
  /// Checks the configuration once and takes the ring over.
  init(activating config: VirtqueueConfig) throws(QueueFault)

  /// Number of the ring on the device.
  var index: Int { get }
  /// Entries.
  var size: Int { get }
  /// Where the queue stands, final once its owner has stopped using it: the answer of
  /// GET_VRING_BASE.
  var base: VringBase { get }
  /// Set when the ring turned out impossible; the queue is dead then.
  var fault: QueueFault? { get }

  /// The next chain to take.
  var position: QueuePosition { get }
  /// How many chains wait from `position` on, at least looked for up to `want`.  At most as many
  /// can be collected (a packed chain of several descriptors counts as several), and at least one
  /// if this is not 0.
  func availableChains(_ want: Int) -> Int
  /// Collects the chain at `position` for reading; what was in `buffers` before is forgotten.
  func collect(
    at position: inout QueuePosition, into buffers: borrowing DeviceReadableBuffers
  ) -> ChainOutcome
  /// Appends the chain at `position` to the buffers to write to.
  func append(
    at position: inout QueuePosition, to buffers: borrowing DeviceWritableBuffers
  ) -> ChainOutcome
  /// The chain at `position`, if it is the usual one: a single descriptor, whose buffer is one run of
  /// memory, and no write into it has to be logged.  Nil says nothing: `collect` or `append` know
  /// what is there.
  func single(at position: QueuePosition, writable: Bool) -> SingleBuffer?
  /// Passes over the chain at `position` without a look at its buffers.
  func skip(at position: inout QueuePosition) -> ChainOutcome
  /// Takes the chains before `position`, which were looked at.
  func take(to position: QueuePosition)
  /// Returns the oldest chain that was looked at and not returned; `length` is how many bytes were
  /// written into its buffers.  Not visible to the driver before `publish`.
  func push(_ chain: DescriptorChain, length: UInt32)
  /// The first `length` bytes of the buffers were written: the front-end hears of it while the
  /// guest migrates.
  func didWrite(_ buffers: borrowing DeviceWritableBuffers, length: Int)
  /// The first byte of the answer was written.
  func didAnswer(_ command: borrowing CommandBuffers)
  /// Makes all pushed chains visible at once.
  func publish()

  /// Whether the driver wants an interrupt for what has been published since the last time this
  /// was asked.
  func needsCall() -> Bool
  /// Interrupts the driver in any case: when a ring starts or gets a new call descriptor, since an
  /// interrupt may have been lost with whoever ran the ring before.
  func signalCall()
  /// Tells the front-end that the ring is broken, by its err eventfd.
  func signalError()
  /// Asks the driver not to kick while we look at the ring anyway.
  func disableKicks()
  /// Asks the driver to kick for the first chain at `position` or behind it, where nothing was
  /// found before, and looks again.  True: there is one now and no kick may come for it; do not
  /// sleep.
  func enableKicks(beyond position: QueuePosition) -> Bool

  /// What the queue has begun to wait for since this was asked last.  It offers nothing until
  /// `translate` or `refuse`.
  func takeMiss() -> TranslationMiss?
  /// Looks addresses up in other translations from now on; the former are not used any more.
  func translate(by table: Translations)
  /// There is no such translation: the chain that waits for it is malformed.
  func refuse(_ miss: TranslationMiss)
}

extension Virtqueue where Self: ~Copyable {
  /// Interrupts the driver if it wants that.  Returns whether it did.
  @inlinable @inline(__always)
  @discardableResult
  public func callIfNeeded() -> Bool {
    guard needsCall() else { return false }
    signalCall()
    return true
  }

  /// Asks the driver to kick for the next chain, and looks again; see `enableKicks(beyond:)`.
  @inlinable @inline(__always)
  public func enableKicks() -> Bool { enableKicks(beyond: position) }
}
