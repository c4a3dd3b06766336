// A packed ring (virtio 1.3, 2.8) for the benchmark's driver.
import GuestDriver
import GuestMemory
import SharedRing

struct PackedPollingRing: PollingRing, ~Copyable {
  let place: RingPlace
  private let state: HotState<State>

  @safe private struct State {
    let ring: UnsafeMutableRawPointer
    let driverArea: UnsafeMutableRawPointer
    let deviceArea: UnsafeMutableRawPointer
    let size: Int
    let flags: UInt16
    let eventIdx: Bool
    /// Where the next descriptor goes, and the flags that make it available in this lap.
    var next = 0
    var offered = DescriptorFlags.avail
    /// The first descriptor that is not published: its flags are written last.
    var held = -1
    var heldFlags: UInt16 = 0
    var added: UInt16 = 0
    /// As many as the last `publish` made visible.
    var published: UInt16 = 0
    /// Where the next used descriptor is looked for, and what its flags will be.
    var usedNext = 0
    var returned = DescriptorFlags.avail | DescriptorFlags.used
    var outstanding = 0
  }

  static func bytes(size: Int) -> Int { 3 * 4096 + 16 * size }

  init(in ram: GuestRAM, size: Int, writable: Bool, eventIdx: Bool) {
    let descriptors = ram.allocate(16 * size, alignment: 4096, region: 0)
    // Each side writes a cache line of its own.
    let driver = ram.allocate(64, alignment: 64, region: 0)
    let device = ram.allocate(64, alignment: 64, region: 0)
    place = RingPlace(descriptors: descriptors, avail: driver, used: device, base: 0x8000_8000)
    state = unsafe HotState(
      State(
        ring: ram.pointer(descriptors, length: 16 * size),
        driverArea: ram.pointer(driver, length: 4), deviceArea: ram.pointer(device, length: 4),
        size: size, flags: writable ? DescriptorFlags.write : 0, eventIdx: eventIdx))
    // No calls.
    unsafe state.value.driverArea.storeRelaxed32(0, 1 << 16)
  }

  /// What comes next of avail and of used, each with its lap's wrap counter.
  var position: UInt32 {
    let lap: UInt32 = state.value.returned == 0 ? 0 : 0x8000
    return (UInt32(truncatingIfNeeded: state.value.usedNext) | lap) &* 0x1_0001
  }

  var free: Int { state.value.size &- state.value.outstanding }

  @inline(__always)
  func add(_ address: UInt64, _ length: UInt32) {
    let slot = state.value.next
    let ring = unsafe state.value.ring
    let flags = state.value.flags | state.value.offered
    unsafe ring.storeRelaxed64(16 &* slot, address)
    unsafe ring.storeRelaxed32(16 &* slot &+ 8, length)
    unsafe ring.storeRelaxed16(16 &* slot &+ 12, UInt16(truncatingIfNeeded: slot))
    if state.value.held < 0 {
      state.value.held = slot
      state.value.heldFlags = flags
    } else {
      unsafe ring.storeRelaxed16(16 &* slot &+ 14, flags)
    }
    state.value.added &+= 1
    state.value.outstanding &+= 1
    state.value.next = slot &+ 1
    if state.value.next == state.value.size {
      state.value.next = 0
      state.value.offered ^= DescriptorFlags.avail | DescriptorFlags.used
    }
  }

  @inline(__always)
  func publish() {
    let held = state.value.held
    state.value.published = state.value.added
    guard held >= 0 else { return }
    unsafe state.value.ring.release16(16 &* held &+ 14, state.value.heldFlags)
    state.value.held = -1
    state.value.added = 0
  }

  @inline(__always)
  func wantsKick() -> Bool {
    sharedMemoryFence()
    let wish = unsafe state.value.deviceArea.relaxed32(0)
    let flags = wish >> 16 & 3
    guard state.value.eventIdx, flags == 2 else { return flags != 1 }
    let new = UInt16(truncatingIfNeeded: state.value.next)
    var event = UInt16(truncatingIfNeeded: wish & 0x7fff)
    // An event of the other lap.
    if (wish & 0x8000 != 0) != (state.value.offered == DescriptorFlags.avail) {
      event &-= UInt16(truncatingIfNeeded: state.value.size)
    }
    return new &- event &- 1 < state.value.published
  }

  @inline(__always)
  func used() -> Int {
    let slot = state.value.usedNext
    let ring = unsafe state.value.ring
    let owner = DescriptorFlags.avail | DescriptorFlags.used
    guard unsafe ring.acquire16(16 &* slot &+ 14) & owner == state.value.returned,
      state.value.outstanding > 0
    else { return -1 }
    let length = unsafe ring.relaxed32(16 &* slot &+ 8)
    let id = unsafe ring.relaxed16(16 &* slot &+ 12)
    guard Int(id) == slot else {
      giveUp("the back-end returned buffer \(id) where \(slot) was the next")
    }
    state.value.outstanding &-= 1
    state.value.usedNext = slot &+ 1
    if state.value.usedNext == state.value.size {
      state.value.usedNext = 0
      state.value.returned ^= owner
    }
    return Int(length)
  }

  var hasUsed: Bool {
    let owner = DescriptorFlags.avail | DescriptorFlags.used
    let flags = unsafe state.value.ring.acquire16(16 &* state.value.usedNext &+ 14)
    return flags & owner == state.value.returned && state.value.outstanding > 0
  }

  func awaitCall(after count: Int) {
    var wish: UInt32 = 0
    if state.value.eventIdx {
      var slot = state.value.usedNext &+ count &- 1
      var lap: UInt32 = state.value.returned == 0 ? 0 : 0x8000
      if slot >= state.value.size {
        slot &-= state.value.size
        lap ^= 0x8000
      }
      wish = 2 << 16 | lap | UInt32(truncatingIfNeeded: slot)
    }
    unsafe state.value.driverArea.storeRelaxed32(0, wish)
    sharedMemoryFence()
  }

  func suppressCalls() { unsafe state.value.driverArea.storeRelaxed32(0, 1 << 16) }
}
