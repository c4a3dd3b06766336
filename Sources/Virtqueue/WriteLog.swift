// What a running queue writes into guest memory, while the guest migrates.
//
// A queue writes by host pointer; the log of written pages is by guest-physical address.  So a
// pointer is translated back, here and only while a guest migrates: the walk of a descriptor chain
// keeps no guest addresses, and where an IOMMU is between, those would not be the log's anyway.
//
// The used ring of a split queue is the exception: its address in the log is what the front-end
// said with SET_VRING_ADDR, and need not be guest memory.
//
// Whether to log is decided when a queue starts; what runs for every packet asks one flag of the
// queue's own state, and never comes here otherwise.
public import GuestMemory
import SharedRing

/// How a ring's writes are logged (vhost-user specification, "Migration").
public struct RingLog: Sendable {
  public var log: DirtyLog
  /// LOG_ALL: what is written into buffers.
  public var buffers: Bool
  /// VHOST_VRING_F_LOG of SET_VRING_ADDR: what is written into the ring, from this guest address on
  /// for the used ring of a split queue.
  public var usedRing: GuestAddress?

  public init(_ log: DirtyLog, buffers: Bool, usedRing: GuestAddress?) {
    self.log = log
    self.buffers = buffers
    self.usedRing = usedRing
  }
}

@safe
struct WriteLog: ~Copyable {
  /// Nil while no guest migrates; then marks go nowhere.
  private let log: DirtyLog?
  private let view: DirtyLogView?
  struct Region: BitwiseCopyable {
    let base: UInt
    let size: UInt
    let guest: UInt64
  }

  /// By host address.
  private let regions: FixedBuffer<Region>
  private let isNew = HotState(false)

  init(_ log: DirtyLog?, _ memory: GuestMemory) {
    self.log = log
    view = log?.view
    let sorted = (log == nil ? [] : memory.regions).map { region in
      Region(
        base: unsafe UInt(bitPattern: region.base), size: UInt(region.description.size),
        guest: region.description.guest.value)
    }.sorted { $0.base < $1.base }
    regions = FixedBuffer(repeating: Region(base: 0, size: 0, guest: 0), count: sorted.count)
    for (i, region) in sorted.enumerated() { regions[i] = region }
  }

  /// The guest address of a byte of guest memory.
  @unsafe
  func address(of pointer: UnsafeMutableRawPointer) -> GuestAddress? {
    let address = UInt(bitPattern: pointer)
    var low = 0
    var high = regions.count
    while low < high {
      let middle = (low &+ high) &>> 1
      if regions[middle].base <= address { low = middle &+ 1 } else { high = middle }
    }
    if low == 0 { return nil }
    let region = regions[low &- 1]
    let offset = address &- region.base
    return offset < region.size ? GuestAddress(region.guest &+ UInt64(offset)) : nil
  }

  /// `length` bytes were written at `pointer`, which is in guest memory.
  @unsafe
  func mark(_ pointer: UnsafeMutableRawPointer, length: Int) {
    if let address = unsafe address(of: pointer) { mark(address, length: length) }
  }

  /// `length` bytes were written at guest address `address`.
  func mark(_ address: GuestAddress, length: Int) {
    if let view, view.mark(address.value, length: length) { isNew.value = true }
  }

  /// Tells the front-end, if it wants to hear of that, that pages are marked which were not.
  func signal() {
    guard isNew.value else { return }
    isNew.value = false
    log?.signal()
  }
}
