// The chain that modern drivers offer nearly always: one descriptor, whose buffer is one run of
// memory.  It needs no list of runs.
//
// Where the buffer lies was checked against the region table; what is *in* it may change at any
// time, so bytes are copied out and then looked at, or copied in.
public import SharedRing

@safe @frozen
public struct SingleBuffer: BitwiseCopyable {
  @usableFromInline let base: UnsafeMutableRawPointer
  /// Bytes.
  public let byteCount: Int
  public let chain: DescriptorChain
  /// Behind the chain.
  public let next: QueuePosition

  @unsafe @inlinable @inline(__always)
  init(
    base: UnsafeMutableRawPointer, byteCount: Int, chain: DescriptorChain, next: QueuePosition
  ) {
    unsafe self.base = base
    self.byteCount = byteCount
    self.chain = chain
    self.next = next
  }

  /// No buffer; its bytes must not be looked at.
  public static var nothing: SingleBuffer {
    unsafe SingleBuffer(
      base: UnsafeMutableRawPointer(bitPattern: 1)!, byteCount: 0,
      chain: DescriptorChain(id: 0, slots: 0), next: QueuePosition(0))
  }

  /// Asks the CPU for the first bytes, which are going to be read.
  @inlinable @inline(__always)
  public func prefetch() { unsafe prefetchForReading(base) }

  /// Asks the CPU for the first bytes, to write them.
  @inlinable @inline(__always)
  public func prefetchForWriting() { unsafe SharedRing.prefetchForWriting(base) }

  /// The first 12 bytes, which there must be, as little-endian words.
  @inlinable
  public var header: (low: UInt64, high: UInt32) {
    @inline(__always) get { unsafe (base.relaxed64(0), base.relaxed32(8)) }
  }

  /// Writes the first 12 bytes, which there must be.
  @inlinable @inline(__always)
  public func writeHeader(low: UInt64, high: UInt32) {
    unsafe base.storeBytes(of: low, as: UInt64.self)
    unsafe base.storeBytes(of: high, toByteOffset: 8, as: UInt32.self)
  }

  /// Copies all from byte `offset` on, which must be in the buffer.
  @inlinable @inline(__always)
  public func copy(from offset: Int, to destination: UnsafeMutableRawPointer) {
    unsafe destination.copyMemory(from: base + offset, byteCount: byteCount &- offset)
  }

  /// Copies `length` bytes to byte `offset`; the buffer must hold `offset + length` bytes.
  @inlinable @inline(__always)
  public func copy(_ source: UnsafeRawPointer, length: Int, to offset: Int) {
    unsafe (base + offset).copyMemory(from: source, byteCount: length)
  }
}
