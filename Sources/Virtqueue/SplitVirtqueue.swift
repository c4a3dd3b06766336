// A running split virtqueue (virtio 1.3, 2.7).
//
// A position is an index into the available ring.  The driver's index is read again only when a
// position has caught up with what is known of it.
public import GuestMemory
public import Linux
public import SharedRing

@safe
public struct SplitVirtqueue: Virtqueue, ~Copyable {
  public let index: Int
  @usableFromInline let ring: HotState<SplitRing>
  @usableFromInline let call: EventDescriptor?
  private let error: EventDescriptor?
  /// Keeps the mappings that `ring` points into.
  private let memory: GuestMemory
  private let inflight: InflightArea?
  @usableFromInline let translation: TranslationState
  let log: WriteLog

  /// Continues at used->idx, which tells what was completed even when the process that ran the
  /// ring before was killed.
  public init(activating config: VirtqueueConfig) throws(QueueFault) {
    let size = config.size
    guard size >= 1, size <= 32768, size & (size - 1) == 0 else { throw .badSize }
    guard config.descriptorTable.value % 16 == 0, config.availRing.value % 2 == 0,
      config.usedRing.value % 4 == 0
    else { throw .misalignedRing }
    guard
      let descriptors = unsafe config.ring(
        at: config.descriptorTable, length: SplitRing.descriptorBytes(size: size)),
      let avail = unsafe config.ring(
        at: config.availRing, length: SplitRing.availBytes(size: size)),
      let used = unsafe config.ring(
        at: config.usedRing, length: SplitRing.usedBytes(size: size))
    else { throw .ringNotInMemory }
    // The regions themselves may be mapped at any offset of the file.
    guard Int(bitPattern: descriptors) % 8 == 0, Int(bitPattern: avail) % 2 == 0,
      Int(bitPattern: used) % 4 == 0
    else { throw .misalignedRing }
    let start = unsafe RingIndex(used.acquire16(2))
    let loggedRing = config.log?.usedRing
    var state = unsafe SplitRing(
      descriptors: descriptors, avail: avail, used: used,
      readable: CachedMemoryView(config.readable), writable: CachedMemoryView(config.writable),
      size: size, mask: UInt16(size - 1),
      eventIdx: config.features.contains(.ringEventIdx),
      indirect: config.features.contains(.ringIndirectDesc),
      notifyOnEmpty: config.features.contains(.notifyOnEmpty),
      logsBuffers: config.log?.buffers ?? false, logsRing: loggedRing != nil,
      nextAvail: start, availIndex: start, nextUsed: start, calledUsed: start, fault: nil,
      inflight: nil, loggedRing: loggedRing ?? GuestAddress(0), loggedUsed: start)
    if let inflight = config.inflight, config.index < inflight.queueCount {
      guard inflight.entryCount >= size,
        let region = unsafe inflight.region(of: config.index, .split)
      else { throw .noInflightRegion }
      try unsafe state.recover(region, entries: inflight.entryCount)
      unsafe state.inflight = region
    }
    index = config.index
    call = config.call
    error = config.error
    memory = config.memory
    inflight = config.inflight
    translation = TranslationState(config)
    log = WriteLog(config.log?.log, config.memory)
    unsafe state.loggedUsed = state.nextUsed
    unsafe ring = HotState(state)
    // All of it: LOG_ALL and the ring's own flag come one after the other, and between them the
    // ring may have run.
    if loggedRing != nil { unsafe logUsed(0, length: SplitRing.usedBytes(size: size)) }
  }

  @inlinable
  public var size: Int { @inline(__always) get { unsafe ring.value.size } }
  public var base: VringBase { unsafe VringBase(split: ring.value.nextAvail.value) }
  public var fault: QueueFault? { unsafe ring.value.fault }
  @inlinable @inline(never)
  public func signalCall() { call?.signal() }
  public func signalError() { error?.signal() }

  @inlinable
  public var position: QueuePosition {
    @inline(__always) get { unsafe QueuePosition(ring.value.nextAvail.value) }
  }

  /// Exact.
  @inlinable @inline(__always)
  public func availableChains(_ want: Int) -> Int {
    let next = unsafe ring.value.nextAvail
    let known = unsafe ring.value.availIndex.distance(from: next)
    if known >= want { return known }
    return reloadAvailable(from: next) ? unsafe ring.value.availIndex.distance(from: next) : 0
  }

  /// Reads the driver's index again.  True if something is offered at `position` or behind it,
  /// which is not before the next head to take; false also when the queue has a fault.
  @inlinable @inline(__always)
  func reloadAvailable(from position: RingIndex) -> Bool {
    if unsafe ring.value.fault != nil || ring.value.isStalled { return false }
    let next = unsafe ring.value.nextAvail
    let index = unsafe ring.value.availIdx
    let ahead = index.distance(from: next)
    // Back behind what was looked at is as impossible as further than the ring is long.
    if unsafe ahead > ring.value.size || ahead < position.distance(from: next) {
      stop(for: .availIndexTooFar, at: position)
      return false
    }
    unsafe ring.value.availIndex = index
    return index != position
  }

  @inlinable @inline(__always)
  public func collect(
    at position: inout QueuePosition, into buffers: borrowing DeviceReadableBuffers
  ) -> ChainOutcome {
    guard let head = head(at: position) else { return .none }
    position.value &+= 1
    buffers.list.removeAll()
    let chain = DescriptorChain(id: head, slots: 1)
    if let defect = walk(head, writable: false, into: buffers.list) {
      if defect == .unmapped, stalls(before: position, buffers.list, writable: false) {
        position.value &-= 1
        return .none
      }
      return .malformed(chain, defect)
    }
    return .chain(chain)
  }

  @inlinable @inline(__always)
  public func append(
    at position: inout QueuePosition, to buffers: borrowing DeviceWritableBuffers
  ) -> ChainOutcome {
    guard let head = head(at: position) else { return .none }
    position.value &+= 1
    let chain = DescriptorChain(id: head, slots: 1)
    if let defect = walk(head, writable: true, into: buffers.list) {
      if defect == .unmapped, stalls(before: position, buffers.list, writable: true) {
        position.value &-= 1
        return .none
      }
      return .malformed(chain, defect)
    }
    return .chain(chain)
  }

  @inlinable @inline(__always)
  public func single(at position: QueuePosition, writable: Bool) -> SingleBuffer? {
    if unsafe writable && ring.value.logsBuffers { return nil }
    guard let head = head(at: position) else { return nil }
    let descriptor = unsafe Descriptor(at: ring.value.descriptors + 16 &* Int(head))
    guard descriptor.flags & Descriptor.layout == (writable ? Descriptor.write : 0) else {
      return nil
    }
    let base =
      unsafe writable
      ? ring.value.writable.pointer(at: descriptor.address, length: descriptor.length)
      : ring.value.readable.pointer(at: descriptor.address, length: descriptor.length)
    guard let base = unsafe base else { return nil }
    return unsafe SingleBuffer(
      base: base, byteCount: Int(descriptor.length), chain: DescriptorChain(id: head, slots: 1),
      next: QueuePosition(position.value &+ 1))
  }

  @inlinable @inline(__always)
  public func skip(at position: inout QueuePosition) -> ChainOutcome {
    guard let head = head(at: position) else { return .none }
    position.value &+= 1
    return .chain(DescriptorChain(id: head, slots: 1))
  }

  /// The head that is offered at `position`; one that names a descriptor that does not exist stops
  /// the queue.
  @inlinable @inline(__always)
  func head(at position: QueuePosition) -> UInt16? {
    let index = RingIndex(position.value)
    if unsafe index == ring.value.availIndex, !reloadAvailable(from: index) { return nil }
    let head = unsafe ring.value.availRing(index)
    if unsafe Int(head) < ring.value.size { return head }
    stop(for: .headOutOfRange, at: index)
    return nil
  }

  @inlinable @inline(__always)
  public func take(to position: QueuePosition) {
    unsafe ring.value.nextAvail = RingIndex(position.value)
  }

  @inlinable @inline(__always)
  public func push(_ chain: DescriptorChain, length: UInt32) {
    unsafe ring.value.writeUsed(ring.value.nextUsed, head: chain.id, length: length)
    unsafe ring.value.nextUsed.advance(by: 1)
  }

  @inlinable @inline(__always)
  public func publish() {
    unsafe ring.value.publishUsedIdx(ring.value.nextUsed)
    if let region = unsafe ring.value.inflight {
      unsafe region.release16(SplitInflight.usedIdx, ring.value.nextUsed.value)
    }
    if unsafe ring.value.logsRing { logPublished() }
  }

  /// Whether the chain before `position`, whose walk came to an unmapped address, waits for a
  /// translation.  Nothing is available there or behind it then.
  @usableFromInline @inline(never)
  func stalls(
    before position: QueuePosition, _ list: borrowing BufferList, writable: Bool
  ) -> Bool {
    guard let miss = list.miss(writable: writable), translation.waits(for: miss) else {
      return false
    }
    unsafe ring.value.isStalled = true
    unsafe ring.value.availIndex = RingIndex(position.value &- 1)
    return true
  }

  public func takeMiss() -> TranslationMiss? { translation.takeMiss() }

  public func translate(by table: Translations) {
    translation.replace(table)
    unsafe ring.value.readable = CachedMemoryView(table.readable)
    unsafe ring.value.writable = CachedMemoryView(table.writable)
    unsafe ring.value.isStalled = false
  }

  public func refuse(_ miss: TranslationMiss) {
    if translation.refuse(miss) { unsafe ring.value.isStalled = false }
  }

  /// The chains before `position` are good and can still be taken.  Nothing is available there or
  /// behind it.
  @usableFromInline
  func stop(for fault: QueueFault, at position: RingIndex) {
    unsafe ring.value.fault = fault
    unsafe ring.value.availIndex = position
  }
}
