// A running virtqueue, device side.
//
// It is born on its worker from a checked configuration and dies there; nobody else ever touches
// it.  `availableHeads`, `head` and `pop` take what the driver offers: looking comes first, `pop`
// commits, so nothing is ever undone.  `push` writes used elements, `publish` makes all of them
// visible with one store; a packet over several buffers needs exactly that.
//
// Heads go back in the order they were taken, always: after a crash of this process a front-end
// restarts a split ring from used->idx alone.
//
// Hostile: everything in the rings.  A bad chain costs that chain; a ring that is impossible
// (`QueueFault`) stops this queue: it offers no heads any more.
import GuestMemory
public import Linux
public import SharedRing

@safe
public struct Virtqueue: ~Copyable {
  /// Number of the ring on the device.
  public let index: Int
  @usableFromInline let ring: HotState<SplitRing>
  @usableFromInline let call: EventDescriptor?
  private let error: EventDescriptor?
  /// Keeps the mappings that `ring` points into.
  private let memory: GuestMemory

  /// Checks the configuration once and takes the ring over (virtio 1.3, 2.7; vhost-user
  /// SET_VRING_*).  Continues at used->idx, which tells what was completed even when the process
  /// that ran the ring before was killed.
  public init(activating config: VirtqueueConfig) throws(QueueFault) {
    let size = config.size
    guard size >= 1, size <= 32768, size & (size - 1) == 0 else { throw .badSize }
    guard config.descriptorTable.value % 16 == 0, config.availRing.value % 2 == 0,
      config.usedRing.value % 4 == 0
    else { throw .misalignedRing }
    guard
      let descriptors = unsafe config.memory.ring(
        at: config.descriptorTable, length: SplitRing.descriptorBytes(size: size)),
      let avail = unsafe config.memory.ring(
        at: config.availRing, length: SplitRing.availBytes(size: size)),
      let used = unsafe config.memory.ring(
        at: config.usedRing, length: SplitRing.usedBytes(size: size))
    else { throw .ringNotInMemory }
    // The regions themselves may be mapped at any offset of the file.
    guard Int(bitPattern: descriptors) % 8 == 0, Int(bitPattern: avail) % 2 == 0,
      Int(bitPattern: used) % 4 == 0
    else { throw .misalignedRing }
    let start = unsafe RingIndex(used.acquire16(2))
    index = config.index
    call = config.call
    error = config.error
    memory = config.memory
    unsafe ring = HotState(
      SplitRing(
        descriptors: descriptors, avail: avail, used: used, memory: config.memory.view,
        size: size, mask: UInt16(size - 1),
        eventIdx: config.features.contains(.ringEventIdx),
        indirect: config.features.contains(.ringIndirectDesc),
        nextAvail: start, availIndex: start, nextUsed: start, calledUsed: start, fault: nil))
  }

  /// Entries.
  @inlinable
  public var size: Int { @inline(__always) get { unsafe ring.value.size } }

  /// Where the queue stands; final once its owner has stopped using it.
  public var indices: VirtqueueIndices {
    unsafe VirtqueueIndices(
      nextAvail: ring.value.nextAvail.value, nextUsed: ring.value.nextUsed.value)
  }

  /// Set when the ring turned out impossible; the queue is dead then.
  public var fault: QueueFault? { unsafe ring.value.fault }

  /// Tells the front-end that the ring is broken, by its err eventfd.
  public func signalError() { error?.signal() }

  /// How many heads wait, at least looked for up to `want`: the shared index is read again only
  /// when fewer than that are known.  0 when the queue has a fault.
  @inlinable @inline(__always)
  public func availableHeads(_ want: Int) -> Int {
    let known = unsafe ring.value.availIndex.distance(from: ring.value.nextAvail)
    return known >= want ? known : reloadAvailable()
  }

  @inlinable @inline(__always)
  func reloadAvailable() -> Int {
    if unsafe ring.value.fault != nil { return 0 }
    let index = unsafe ring.value.availIdx
    let distance = unsafe index.distance(from: ring.value.nextAvail)
    if unsafe distance > ring.value.size {
      stop(for: .availIndexTooFar, after: 0)
      return 0
    }
    unsafe ring.value.availIndex = index
    return distance
  }

  /// The head `offset` places after the next one, not taken yet; nil stops the queue, for the
  /// driver named a descriptor that does not exist.
  @inlinable @inline(__always)
  public func head(_ offset: Int) -> UInt16? {
    let head = unsafe ring.value.availRing(ring.value.nextAvail.advanced(by: offset))
    if unsafe Int(head) < ring.value.size { return head }
    stop(for: .headOutOfRange, after: offset)
    return nil
  }

  /// Takes `count` heads, which were looked at before.
  @inlinable @inline(__always)
  public func pop(_ count: Int) { unsafe ring.value.nextAvail.advance(by: count) }

  /// Returns one head; `length` is how many bytes were written into its buffers.  Not visible to
  /// the driver before `publish`.
  @inlinable @inline(__always)
  public func push(_ head: UInt16, length: UInt32) {
    unsafe ring.value.writeUsed(ring.value.nextUsed, head: head, length: length)
    unsafe ring.value.nextUsed.advance(by: 1)
  }

  /// Makes all pushed heads visible at once.
  @inlinable @inline(__always)
  public func publish() { unsafe ring.value.publishUsedIdx(ring.value.nextUsed) }

  /// The `heads` next heads are good, and may have been looked at already: they can still be
  /// popped.  Nothing is available behind them.
  @usableFromInline
  func stop(for fault: QueueFault, after heads: Int) {
    unsafe ring.value.fault = fault
    unsafe ring.value.availIndex = ring.value.nextAvail.advanced(by: heads)
  }
}
