// Two kinds of address name guest memory and must never be mixed: descriptors hold guest-physical
// addresses, vhost-user ring addresses are virtual addresses of the front-end's process.

/// An address in the guest's physical address space, as descriptors hold it.
@frozen
public struct GuestAddress: Hashable, Comparable, Sendable {
  public var value: UInt64
  @inlinable @inline(__always) public init(_ value: UInt64) { self.value = value }
  public static func < (a: GuestAddress, b: GuestAddress) -> Bool { a.value < b.value }
}

/// A virtual address in the front-end's process, as SET_VRING_ADDR holds it.
@frozen
public struct FrontEndAddress: Hashable, Comparable, Sendable {
  public var value: UInt64
  @inlinable @inline(__always) public init(_ value: UInt64) { self.value = value }
  public static func < (a: FrontEndAddress, b: FrontEndAddress) -> Bool { a.value < b.value }
}
