// A running packed virtqueue (virtio 1.3, 2.8).
//
// There is no index to read: whether a descriptor is offered is in its flags, which come with the
// descriptor.  Used descriptors take the place of the chains they return, from `nextUsed` on;
// chains go back in order, so that is always the first descriptor of the chain itself.
//
// A buffer id is the driver's own: any is taken, none is ever used as an index.
public import GuestMemory
public import Linux
public import SharedRing

@safe
public struct PackedVirtqueue: Virtqueue, ~Copyable {
  public let index: Int
  @usableFromInline let ring: HotState<PackedRing>
  @usableFromInline let call: EventDescriptor?
  private let error: EventDescriptor?
  /// Keeps the mappings that `ring` points into.
  private let memory: GuestMemory
  @usableFromInline let translation: TranslationState
  let log: WriteLog
  private let inflight: InflightArea?
  private let returned: ReturnedDescriptors?

  /// Continues where the front-end says that used descriptors go on: every chain that was taken
  /// has been returned, so that is where available ones go on too.  Some front-ends know of the
  /// lower half of a base alone; then that counts.
  public init(activating config: VirtqueueConfig) throws(QueueFault) {
    let size = config.size
    guard size >= 1, size <= 32768 else { throw .badSize }
    guard config.descriptorTable.value % 16 == 0, config.availRing.value % 4 == 0,
      config.usedRing.value % 4 == 0
    else { throw .misalignedRing }
    guard
      let descriptors = unsafe config.ring(
        at: config.descriptorTable, length: PackedRing.descriptorBytes(size: size)),
      let driverEvents = unsafe config.ring(
        at: config.availRing, length: PackedRing.eventBytes),
      let deviceEvents = unsafe config.ring(
        at: config.usedRing, length: PackedRing.eventBytes)
    else { throw .ringNotInMemory }
    // The regions themselves may be mapped at any offset of the file.
    guard Int(bitPattern: descriptors) % 8 == 0, Int(bitPattern: driverEvents) % 4 == 0,
      Int(bitPattern: deviceEvents) % 4 == 0
    else { throw .misalignedRing }
    let upper = UInt16(truncatingIfNeeded: config.base.rawValue >> 16)
    let start = QueuePosition(
      upper == 0 ? UInt16(truncatingIfNeeded: config.base.rawValue) : upper)
    guard start.slot < size else { throw .baseOutOfRange }
    var state = unsafe PackedRing(
      descriptors: descriptors, driverEvents: driverEvents, deviceEvents: deviceEvents,
      readable: CachedMemoryView(config.readable), writable: CachedMemoryView(config.writable),
      size: size,
      eventIdx: config.features.contains(.ringEventIdx),
      indirect: config.features.contains(.ringIndirectDesc),
      notifyOnEmpty: config.features.contains(.notifyOnEmpty),
      logsBuffers: config.log?.buffers ?? false, logsRing: config.log?.usedRing != nil,
      nextAvail: start, nextUsed: start, heldUsed: 0, heldIndex: -1, usedSinceCall: 0,
      fault: nil, inflight: nil, returned: descriptors, publishedUsed: start)
    var returned: ReturnedDescriptors?
    if let inflight = config.inflight, config.index < inflight.queueCount {
      guard inflight.entryCount >= size,
        let region = unsafe inflight.region(of: config.index, .packed)
      else { throw .noInflightRegion }
      try unsafe state.recover(region, entries: inflight.entryCount, base: start)
      let waiting = ReturnedDescriptors(size: size)
      unsafe state.inflight = region
      unsafe state.returned = waiting.base
      returned = waiting
    } else if unsafe !state.isNoted(start) {
      throw .impossibleBase
    }
    if unsafe state.contradicts(state.nextAvail, inOrder: config.features.contains(.inOrder)) {
      throw .impossibleBase
    }
    unsafe state.notePosition()
    index = config.index
    call = config.call
    error = config.error
    memory = config.memory
    translation = TranslationState(config)
    log = WriteLog(config.log?.log, config.memory)
    inflight = config.inflight
    self.returned = returned
    unsafe ring = HotState(state)
    // All of it: LOG_ALL and the ring's own flag come one after the other, and between them the
    // ring may have run.
    if config.log?.usedRing != nil {
      logDescriptors(0, count: size)
      logNotification()
    }
  }

  @inlinable
  public var size: Int { @inline(__always) get { unsafe ring.value.size } }
  public var base: VringBase {
    unsafe VringBase(packed: ring.value.nextAvail, used: ring.value.nextUsed)
  }
  public var fault: QueueFault? { unsafe ring.value.fault }
  @inlinable @inline(never)
  public func signalCall() { call?.signal() }
  public func signalError() { error?.signal() }

  @inlinable
  public var position: QueuePosition { @inline(__always) get { unsafe ring.value.nextAvail } }

  /// Counts descriptors, so at least as many as there are chains.  A driver offers one after the
  /// other, so the place where they end is bisected; one that does not is found out when its chains
  /// are collected.
  @inlinable @inline(__always)
  public func availableChains(_ want: Int) -> Int {
    if unsafe ring.value.fault != nil || ring.value.isStalled { return 0 }
    let next = unsafe ring.value.nextAvail
    if unsafe !ring.value.isOffered(next) { return 0 }
    let most = unsafe min(want, ring.value.size)
    // Under load all are.
    if isOffered(next, most) { return most }
    var known = 1
    var beyond = most
    while known &+ 1 < beyond {
      let middle = (known &+ beyond) &>> 1
      if isOffered(next, middle) { known = middle } else { beyond = middle }
    }
    return known
  }

  /// Whether the driver has offered the `count`th descriptor from `position` on.
  @inlinable @inline(__always)
  func isOffered(_ position: QueuePosition, _ count: Int) -> Bool {
    unsafe ring.value.isOffered(ring.value.advanced(position, by: count &- 1))
  }

  @inlinable @inline(__always)
  public func collect(
    at position: inout QueuePosition, into buffers: borrowing DeviceReadableBuffers
  ) -> ChainOutcome {
    buffers.list.removeAll()
    return walk(at: &position, writable: false, into: buffers.list)
  }

  @inlinable @inline(__always)
  public func append(
    at position: inout QueuePosition, to buffers: borrowing DeviceWritableBuffers
  ) -> ChainOutcome {
    walk(at: &position, writable: true, into: buffers.list)
  }

  @inlinable @inline(__always)
  public func single(at position: QueuePosition, writable: Bool) -> SingleBuffer? {
    if unsafe writable && ring.value.logsBuffers { return nil }
    let descriptor = unsafe PackedDescriptor(
      acquiring: ring.value.descriptors + 16 &* position.slot)
    let flags = position.offeredFlags | (writable ? PackedDescriptor.write : 0)
    guard descriptor.flags & (PackedDescriptor.owner | PackedDescriptor.layout) == flags,
      unsafe ring.value.fault == nil, unsafe !ring.value.isStalled
    else { return nil }
    let base =
      unsafe writable
      ? ring.value.writable.pointer(at: descriptor.address, length: descriptor.length)
      : ring.value.readable.pointer(at: descriptor.address, length: descriptor.length)
    guard let base = unsafe base else { return nil }
    return unsafe SingleBuffer(
      base: base, byteCount: Int(descriptor.length),
      chain: DescriptorChain(id: descriptor.id, slots: 1),
      next: ring.value.advanced(position, by: 1))
  }

  @inlinable @inline(__always)
  public func take(to position: QueuePosition) { unsafe ring.value.nextAvail = position }

  @inlinable @inline(__always)
  public func push(_ chain: DescriptorChain, length: UInt32) {
    let position = unsafe ring.value.nextUsed
    // NEXT for a successor of ours: see PackedPosition.swift.
    let flags =
      position.returnedFlags | (length > 0 ? PackedDescriptor.write : 0)
      | (chain.slots > 1 ? PackedDescriptor.next : 0)
    let half = UInt64(length) | UInt64(chain.id) &<< 32 | UInt64(flags) &<< 48
    if unsafe ring.value.heldIndex < 0 {
      unsafe ring.value.heldUsed = half
      unsafe ring.value.heldIndex = position.slot
    } else {
      unsafe ring.value.returned.storeRelaxed64(16 &* position.slot &+ 8, half)
    }
    let slots = Int(chain.slots)
    unsafe ring.value.nextUsed = ring.value.advanced(position, by: slots)
    unsafe ring.value.usedSinceCall &+= slots
    unsafe ring.value.unpublishedSlots &+= slots
  }

  /// Release: the driver sees the other used descriptors, and what was written into the buffers,
  /// with the first.
  @inlinable @inline(__always)
  public func publish() {
    let held = unsafe ring.value.heldIndex
    if held < 0 { return }
    unsafe ring.value.notePosition()
    if let region = unsafe ring.value.inflight {
      unsafe ring.value.publishTracked(region)
    } else {
      unsafe ring.value.descriptors.release64(16 &* held &+ 8, ring.value.heldUsed)
      unsafe ring.value.heldIndex = -1
    }
    if unsafe ring.value.logsRing { logPublished(from: held) }
  }

  /// Whether the next chain, whose walk came to an unmapped address, waits for a translation.
  /// Nothing is offered then.
  @usableFromInline @inline(never)
  func stalls(_ list: borrowing BufferList, writable: Bool) -> Bool {
    guard let miss = list.miss(writable: writable), translation.waits(for: miss) else {
      return false
    }
    unsafe ring.value.isStalled = true
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
}
