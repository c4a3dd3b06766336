// Three kinds of address name guest memory and must never be mixed: descriptors hold guest-physical
// addresses, vhost-user ring addresses are virtual addresses of the front-end's process, and behind
// a vIOMMU both hold I/O virtual addresses.

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

/// An address as the guest's IOMMU knows it: what a driver gives a device behind one.
@frozen
public struct IOVirtualAddress: Hashable, Comparable, Sendable, CustomStringConvertible {
  public var value: UInt64
  @inlinable @inline(__always) public init(_ value: UInt64) { self.value = value }
  public static func < (a: IOVirtualAddress, b: IOVirtualAddress) -> Bool { a.value < b.value }
  public var description: String { hex(value) }
}

/// What a device may do, or wants to do, behind an I/O virtual address.
public struct Access: OptionSet, Hashable, Sendable, CustomStringConvertible {
  public let rawValue: UInt8
  public init(rawValue: UInt8) { self.rawValue = rawValue }
  public static let read = Access(rawValue: 1)
  public static let write = Access(rawValue: 2)

  public var description: String {
    switch self {
    case .read: "read"
    case .write: "write"
    case [.read, .write]: "read and write"
    default: "no access"
    }
  }
}
