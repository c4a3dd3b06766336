// Free-running ring indices.  They wrap by design, at 2^16 on a virtqueue and at 2^32 on an
// AF_XDP ring, so a distance is a wrapping subtraction and never a plain `-`, which traps.

/// The index of a virtqueue ring: counts every entry ever produced, modulo 2^16
/// (virtio 1.3, 2.7.6 and 2.7.8).
@frozen
public struct RingIndex: Equatable, Sendable {
  public var value: UInt16

  @inlinable @inline(__always)
  public init(_ value: UInt16) { self.value = value }

  /// How many entries `self` is ahead of `other`; right across the wrap.
  @inlinable @inline(__always)
  public func distance(from other: RingIndex) -> Int { Int(value &- other.value) }

  @inlinable @inline(__always)
  public func advanced(by count: Int) -> RingIndex {
    RingIndex(value &+ UInt16(truncatingIfNeeded: count))
  }

  @inlinable @inline(__always)
  public mutating func advance(by count: Int) { self = advanced(by: count) }

  /// The slot in a ring of `mask + 1` entries.
  @inlinable @inline(__always)
  public func slot(mask: UInt16) -> Int { Int(value & mask) }
}
