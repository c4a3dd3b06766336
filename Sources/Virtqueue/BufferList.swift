// The buffers of a descriptor chain, as runs of host memory.
//
// Device-readable and device-writable buffers are different types, so that a transmit path cannot
// write into guest memory and a receive path cannot take a read-only buffer.  The runs were checked
// against the region table when they were appended; what is *in* them may change at any time, so
// nothing here hands out a Span: bytes are copied out and then looked at, or copied in.
public import GuestMemory
public import SharedRing
import Glibc

@safe @frozen @usableFromInline
struct BufferList: ~Copyable {
  @unsafe @frozen @usableFromInline
  struct Cells {
    @usableFromInline var runs: UnsafeMutablePointer<HostRange>
    @usableFromInline var count: Int
    @usableFromInline var capacity: Int
    /// Bytes in all runs.
    @usableFromInline var bytes: Int
    /// Bytes before the first run that the device may write; nil: there is none.
    @usableFromInline var turn: Int?
    /// Readable buffers may be followed by writable ones.
    @usableFromInline var mayTurn: Bool
    /// What the last walk that came to an unmapped address wanted there.
    var miss: Miss = .none
    var missed: UInt64 = 0
  }
  @usableFromInline
  enum Miss {
    case buffer
    case table
    /// Nothing that a translation could give.
    case none
  }
  @usableFromInline let cells: HotState<Cells>

  init(capacity: Int, mayTurn: Bool = false) {
    unsafe cells = HotState(
      Cells(
        runs: .allocate(capacity: capacity), count: 0, capacity: capacity, bytes: 0,
        mayTurn: mayTurn))
  }

  deinit { unsafe cells.value.runs.deallocate() }

  @usableFromInline @inline(__always)
  var bytes: Int { unsafe cells.value.bytes }

  @inlinable @inline(__always)
  func removeAll() {
    unsafe cells.value.count = 0
    unsafe cells.value.bytes = 0
  }

  /// Ends a walk at an address that is not mapped.
  @usableFromInline @inline(never)
  func unmapped(_ address: UInt64, _ miss: Miss) -> ChainDefect {
    unsafe cells.value.miss = miss
    unsafe cells.value.missed = address
    return .unmapped
  }

  /// What a walk that ended so lacks.
  func miss(writable: Bool) -> TranslationMiss? {
    let address = unsafe IOVirtualAddress(cells.value.missed)
    let writable = unsafe writable || cells.value.turn != nil
    return switch unsafe cells.value.miss {
    case .buffer: TranslationMiss(address: address, access: writable ? .write : .read)
    case .table: TranslationMiss(address: address, access: .read)
    case .none: nil
    }
  }

  /// The next buffer goes the other way than those before it.  False if that cannot be: only
  /// commands have buffers of both kinds, and then the device's come last.
  @usableFromInline
  func turn(toWritable writable: Bool) -> Bool {
    guard unsafe cells.value.mayTurn, writable else { return false }
    unsafe cells.value.turn = cells.value.bytes
    return true
  }

  func forgetTurn() { unsafe cells.value.turn = nil }

  var readableBytes: Int { unsafe cells.value.turn ?? cells.value.bytes }

  /// False if the list is full.
  @inlinable @inline(__always)
  func append(_ run: HostRange) -> Bool {
    let count = unsafe cells.value.count
    if unsafe count >= cells.value.capacity { return false }
    unsafe cells.value.runs[count] = run
    unsafe cells.value.count = count &+ 1
    unsafe cells.value.bytes &+= run.length
    return true
  }
}

extension BufferList {
  /// Calls `body` with the contiguous pieces of `length` bytes from byte `offset` on, in order; the
  /// list must hold `offset + length` bytes.
  @inlinable @inline(__always)
  func forEachPiece(
    from offset: Int, length: Int, _ body: (UnsafeMutableRawPointer, Int) -> Void
  ) {
    var skip = offset
    var left = length
    var i = 0
    while left > 0 {
      let run = unsafe cells.value.runs[i]
      i &+= 1
      if unsafe skip >= run.length {
        unsafe skip &-= run.length
        continue
      }
      let bytes = unsafe min(left, run.length &- skip)
      unsafe body(run.base + skip, bytes)
      left &-= bytes
      skip = 0
    }
  }
}

extension BufferList {
  /// The first `length` bytes were written.
  func mark(_ length: Int, in log: borrowing WriteLog) {
    var left = length
    var i = 0
    let count = unsafe cells.value.count
    while left > 0, i < count {
      let run = unsafe cells.value.runs[i]
      let bytes = unsafe min(left, run.length)
      unsafe log.mark(run.base, length: bytes)
      left &-= bytes
      i &+= 1
    }
  }
}

/// What the driver wants to transmit: buffers that only the driver may write.
@frozen
public struct DeviceReadableBuffers: ~Copyable {
  @usableFromInline let list: BufferList

  /// - Parameter capacity: most runs of memory; a chain with more is malformed.
  public init(capacity: Int) { list = BufferList(capacity: capacity) }

  /// Of a command: buffers of the device's follow, and are in the list too.
  init(answeredWithCapacity capacity: Int) { list = BufferList(capacity: capacity, mayTurn: true) }

  /// Bytes in the chain.
  @inlinable
  public var byteCount: Int { @inline(__always) get { unsafe list.cells.value.bytes } }

  /// The first `length` bytes (8 to 12) of the chain, which must hold as many, as little-endian
  /// words; bytes beyond `length` are 0.  They are copied once: what the guest writes afterwards
  /// changes nothing here.
  @inlinable @inline(__always)
  public func header(length: Int) -> (low: UInt64, high: UInt32) {
    let first = unsafe list.cells.value.runs[0]
    guard unsafe first.length >= 12 && length == 12 else { return scatteredHeader(length: length) }
    return unsafe (first.base.relaxed64(0), first.base.relaxed32(8))
  }

  @usableFromInline
  func scatteredHeader(length: Int) -> (low: UInt64, high: UInt32) {
    var words: (UInt64, UInt32) = (0, 0)
    unsafe withUnsafeMutableBytes(of: &words) {
      unsafe copyRuns(from: 0, length: min(length, 12), to: $0.baseAddress!)
    }
    return (words.0, words.1)
  }

  /// Copies `length` bytes from byte `offset` of the chain to `destination`, wherever the chain
  /// is cut.  The chain must hold `offset + length` bytes.
  @inlinable @inline(__always)
  public func copy(from offset: Int, length: Int, to destination: UnsafeMutableRawPointer) {
    let first = unsafe list.cells.value.runs[0]
    if unsafe offset &+ length <= first.length {
      unsafe destination.copyMemory(from: first.base + offset, byteCount: length)
    } else {
      unsafe copyRuns(from: offset, length: length, to: destination)
    }
  }

  /// Calls `body` with the contiguous pieces of `length` bytes from byte `offset` of the chain on, in
  /// order; the chain must hold `offset + length` bytes.  For who copies them on the way through other
  /// hands: what is in them may change at any time.
  @unsafe @inlinable @inline(__always)
  public func forEachPiece(
    from offset: Int, length: Int, _ body: (UnsafeRawPointer, Int) -> Void
  ) {
    unsafe list.forEachPiece(from: offset, length: length) { unsafe body($0, $1) }
  }

  /// Becomes the chain of this one buffer.
  public func become(_ buffer: SingleBuffer) {
    list.removeAll()
    _ = unsafe list.append(HostRange(base: buffer.base, length: buffer.byteCount))
  }

  @usableFromInline
  func copyRuns(from offset: Int, length: Int, to destination: UnsafeMutableRawPointer) {
    var target = unsafe destination
    unsafe list.forEachPiece(from: offset, length: length) { base, bytes in
      unsafe target.copyMemory(from: base, byteCount: bytes)
      unsafe target += bytes
    }
  }
}

/// Where received bytes may go: buffers that only the device writes.
@frozen
public struct DeviceWritableBuffers: ~Copyable {
  @usableFromInline let list: BufferList

  /// - Parameter capacity: most runs of memory; a chain with more is malformed.
  public init(capacity: Int) { list = BufferList(capacity: capacity) }

  /// Bytes in all chains that were added since `removeAll`.
  @inlinable
  public var byteCount: Int { @inline(__always) get { unsafe list.cells.value.bytes } }

  @inlinable @inline(__always)
  public func removeAll() { list.removeAll() }

  /// Writes the first `length` bytes (8 to 12) of the buffers, which must hold as many, from
  /// little-endian words.
  @inlinable @inline(__always)
  public func writeHeader(low: UInt64, high: UInt32, length: Int) {
    let first = unsafe list.cells.value.runs[0]
    guard unsafe first.length >= 12 && length == 12 else {
      scatterHeader(low: low, high: high, length: length)
      return
    }
    unsafe first.base.storeBytes(of: low, as: UInt64.self)
    unsafe first.base.storeBytes(of: high, toByteOffset: 8, as: UInt32.self)
  }

  @usableFromInline
  func scatterHeader(low: UInt64, high: UInt32, length: Int) {
    var words: (UInt64, UInt32) = (low, high)
    unsafe withUnsafeBytes(of: &words) {
      unsafe copyRuns($0.baseAddress!, length: min(length, 12), to: 0)
    }
  }

  /// Copies `length` bytes to byte `offset` of the buffers, wherever they are cut.  The buffers
  /// must hold `offset + length` bytes.
  @inlinable @inline(__always)
  public func copy(_ source: UnsafeRawPointer, length: Int, to offset: Int) {
    let first = unsafe list.cells.value.runs[0]
    if unsafe offset &+ length <= first.length {
      unsafe (first.base + offset).copyMemory(from: source, byteCount: length)
    } else {
      unsafe copyRuns(source, length: length, to: offset)
    }
  }

  /// A place in the buffers, for who writes them from the front to the end.
  @frozen
  public struct Place {
    @usableFromInline var run = 0
    @usableFromInline var offset = 0
    /// The first byte.
    @inlinable @inline(__always)
    public init() {}
  }

  /// Moves `place` on by `length` bytes, which there must be.
  @inlinable @inline(__always)
  public func skip(_ length: Int, from place: inout Place) {
    unsafe advance(length, from: &place) { _, _ in }
  }

  /// Copies `length` bytes to `place`, wherever the buffers are cut, and moves it behind them.  The
  /// buffers must hold as many from there on.
  @inlinable @inline(__always)
  public func copy(_ source: UnsafeRawPointer, length: Int, to place: inout Place) {
    var source = unsafe source
    unsafe advance(length, from: &place) { base, bytes in
      unsafe base.copyMemory(from: source, byteCount: bytes)
      unsafe source += bytes
    }
  }

  @inlinable @inline(__always)
  func advance(
    _ length: Int, from place: inout Place, _ body: (UnsafeMutableRawPointer, Int) -> Void
  ) {
    var left = length
    while left > 0 {
      let run = unsafe list.cells.value.runs[place.run]
      let bytes = unsafe min(left, run.length &- place.offset)
      unsafe body(run.base + place.offset, bytes)
      left &-= bytes
      place.offset &+= bytes
      if unsafe place.offset == run.length {
        place.run &+= 1
        place.offset = 0
      }
    }
  }

  /// Appends a chain of one buffer; false if the list is full.
  @inlinable @inline(__always)
  public func append(_ buffer: SingleBuffer) -> Bool {
    unsafe list.append(HostRange(base: buffer.base, length: buffer.byteCount))
  }

  @usableFromInline
  func copyRuns(_ source: UnsafeRawPointer, length: Int, to offset: Int) {
    var source = unsafe source
    unsafe list.forEachPiece(from: offset, length: length) { base, bytes in
      unsafe base.copyMemory(from: source, byteCount: bytes)
      unsafe source += bytes
    }
  }
}
