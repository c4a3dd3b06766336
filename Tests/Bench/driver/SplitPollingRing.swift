// A split ring (virtio 1.3, 2.7) for the benchmark's driver.
import GuestDriver
import SharedRing

struct SplitPollingRing: PollingRing, ~Copyable {
  let place: RingPlace
  private let state: HotState<State>

  @safe private struct State {
    let table: UnsafeMutableRawPointer
    let avail: UnsafeMutableRawPointer
    let used: UnsafeMutableRawPointer
    let size: Int
    let flags: UInt16
    let eventIdx: Bool
    var availIndex: UInt16 = 0
    var publishedIndex: UInt16 = 0
    /// Before the last `publish`.
    var formerIndex: UInt16 = 0
    var usedIndex: UInt16 = 0
  }

  static func bytes(size: Int) -> Int { 3 * 4096 + (16 + 2 + 8) * size }

  init(in ram: GuestRAM, size: Int, writable: Bool, eventIdx: Bool) {
    place = RingPlace(
      descriptors: ram.allocate(16 * size, alignment: 4096, region: 0),
      avail: ram.allocate(6 + 2 * size, alignment: 4096, region: 0),
      used: ram.allocate(6 + 8 * size, alignment: 4096, region: 0), base: 0)
    state = unsafe HotState(
      State(
        table: ram.pointer(place.descriptors, length: 16 * size),
        avail: ram.pointer(place.avail, length: 6 + 2 * size),
        used: ram.pointer(place.used, length: 6 + 8 * size), size: size,
        flags: writable ? DescriptorFlags.write : 0, eventIdx: eventIdx))
    // No calls, whether by flag or by an event that is as far away as can be.
    unsafe state.value.avail.storeRelaxed16(0, eventIdx ? 0 : 1)
    unsafe state.value.avail.storeRelaxed16(4 + 2 * size, .max)
  }

  var position: UInt32 { UInt32(state.value.usedIndex) }

  var free: Int { state.value.size &- Int(state.value.availIndex &- state.value.usedIndex) }

  @inline(__always)
  private func slot(_ index: UInt16) -> Int { Int(index) & (state.value.size &- 1) }

  @inline(__always)
  func add(_ address: UInt64, _ length: UInt32) {
    let slot = slot(state.value.availIndex)
    let table = unsafe state.value.table
    unsafe table.storeRelaxed64(16 &* slot, address)
    unsafe table.storeRelaxed64(16 &* slot &+ 8, UInt64(length) | UInt64(state.value.flags) << 32)
    unsafe state.value.avail.storeRelaxed16(4 &+ 2 &* slot, UInt16(truncatingIfNeeded: slot))
    state.value.availIndex &+= 1
  }

  @inline(__always)
  func publish() {
    state.value.formerIndex = state.value.publishedIndex
    state.value.publishedIndex = state.value.availIndex
    unsafe state.value.avail.release16(2, state.value.availIndex)
  }

  @inline(__always)
  func wantsKick() -> Bool {
    sharedMemoryFence()
    let used = unsafe state.value.used
    guard state.value.eventIdx else { return unsafe used.relaxed16(0) & 1 == 0 }
    let event = unsafe used.relaxed16(4 &+ 8 &* state.value.size)
    let new = state.value.publishedIndex
    return new &- event &- 1 < new &- state.value.formerIndex
  }

  @inline(__always)
  func used() -> Int {
    let index = state.value.usedIndex
    let used = unsafe state.value.used
    guard unsafe used.acquire16(2) != index else { return -1 }
    let slot = slot(index)
    let id = unsafe used.relaxed32(4 &+ 8 &* slot)
    let length = unsafe used.relaxed32(8 &+ 8 &* slot)
    guard id == UInt32(truncatingIfNeeded: slot), index != state.value.publishedIndex else {
      giveUp("the back-end returned chain \(id) where \(slot) was the next")
    }
    state.value.usedIndex = index &+ 1
    if state.value.eventIdx {
      unsafe state.value.avail.storeRelaxed16(4 &+ 2 &* state.value.size, index)
    }
    return Int(length)
  }

  var hasUsed: Bool { unsafe state.value.used.acquire16(2) != state.value.usedIndex }

  func awaitCall(after count: Int) {
    let avail = unsafe state.value.avail
    if state.value.eventIdx {
      let event = state.value.usedIndex &+ UInt16(truncatingIfNeeded: count &- 1)
      unsafe avail.storeRelaxed16(4 &+ 2 &* state.value.size, event)
    } else {
      unsafe avail.storeRelaxed16(0, 0)
    }
    sharedMemoryFence()
  }

  /// An event that was is one no more: with EVENT_IDX there is nothing to do.
  func suppressCalls() {
    if !state.value.eventIdx { unsafe state.value.avail.storeRelaxed16(0, 1) }
  }
}
