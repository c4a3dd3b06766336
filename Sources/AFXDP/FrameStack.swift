// Free frames, last in first out: the frame that was used last is the one still in the cache.

/// The free frames of one budget, as chunk numbers.
@safe @frozen
public struct FrameStack: ~Copyable {
  @usableFromInline let slots: UnsafeMutablePointer<UInt32>
  public let capacity: Int
  @usableFromInline var freeCount: Int
  public var count: Int { @inlinable @inline(__always) get { freeCount } }

  /// Holds all of `chunks`; the lowest comes out first.
  public init(chunks: Range<Int>) {
    capacity = chunks.count
    unsafe slots = .allocate(capacity: max(chunks.count, 1))
    for (slot, chunk) in chunks.reversed().enumerated() {
      unsafe (slots + slot).initialize(to: UInt32(chunk))
    }
    freeCount = chunks.count
  }

  deinit { unsafe slots.deallocate() }

  /// Takes a frame; there must be one.
  @inlinable @inline(__always)
  public mutating func pop() -> UInt32 {
    precondition(count > 0, "no free frame: look at `count` first")
    freeCount &-= 1
    return unsafe slots[freeCount]
  }

  /// Gives a frame back; each frame that was taken comes back once.
  @inlinable @inline(__always)
  public mutating func push(_ chunk: UInt32) {
    precondition(count < capacity, "a frame was given back twice")
    unsafe slots[freeCount] = chunk
    freeCount &+= 1
  }
}
