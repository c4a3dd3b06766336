// Where frames live: one private range of equal, aligned chunks, one frame per chunk.
// A packet that is larger than a chunk lies in several, where the kernel has multi-buffer AF_XDP.
//
// Frames are copied between guest and chunk once.  Guest memory itself as UMEM works, and is not
// worth it in copy mode: it pins all of the guest, and the kernel copies again anyway.
//
// Receive and transmit frames are two budgets of the range, so that a guest that floods its
// transmit queue cannot empty the fill ring.
import CLinux
import CNUMA
import Glibc
public import Linux

/// How a range of frame memory is divided.
public struct FrameGeometry: Equatable, Sendable {
  /// What the kernel keeps in front of a received frame (XDP_PACKET_HEADROOM).
  public static let kernelHeadroom = 256
  /// Ethernet header with a VLAN tag.
  public static let linkHeader = 18
  /// The largest MTU whose packets fit one chunk; chunks of a UMEM are at most a page.
  public static let largestMTU = 4096 - kernelHeadroom - linkHeader
  /// Frames of one packet at most, where kernel and port take several: one less than the
  /// descriptors that the kernel makes a packet of (MAX_SKB_FRAGS, and the linear part).
  public static let mostFramesPerPacket = 17
  /// The largest MTU whose packets fit that many chunks.
  public static let largestMultiBufferMTU =
    mostFramesPerPacket * (4096 - kernelHeadroom) - linkHeader

  /// Bytes; a power of two.
  public let chunkSize: Int
  public let receiveFrames: Int
  public let transmitFrames: Int

  public init(chunkSize: Int, receiveFrames: Int, transmitFrames: Int) {
    precondition(chunkSize > FrameGeometry.kernelHeadroom && chunkSize & (chunkSize - 1) == 0)
    self.chunkSize = chunkSize
    self.receiveFrames = receiveFrames
    self.transmitFrames = transmitFrames
  }

  /// The smallest chunk of a UMEM that holds frames of `mtu` bytes behind an Ethernet header with
  /// a VLAN tag: 2048 or 4096.
  public static func chunkSize(forMTU mtu: Int) -> Int {
    mtu + linkHeader <= 2048 - kernelHeadroom ? 2048 : 4096
  }

  /// Frames that a packet of `mtu` bytes behind such a header takes.
  public func framesPerPacket(forMTU mtu: Int) -> Int {
    (mtu + FrameGeometry.linkHeader + frameRoom - 1) / frameRoom
  }

  /// The smallest chunk that holds such frames, for memory that is no UMEM and may have any size.
  public static func unlimitedChunkSize(forMTU mtu: Int) -> Int {
    var size = 2048
    while size < mtu + linkHeader + kernelHeadroom { size *= 2 }
    return size
  }

  public var count: Int { receiveFrames + transmitFrames }
  /// Room for a frame, in bytes with Ethernet header; the same in both directions.
  public var frameRoom: Int { chunkSize - FrameGeometry.kernelHeadroom }
  /// Chunk numbers of the receive budget.
  public var receiveChunks: Range<Int> { 0..<receiveFrames }
  /// Chunk numbers of the transmit budget.
  public var transmitChunks: Range<Int> { receiveFrames..<count }
  public var length: Int { count * chunkSize }
}

/// Chunk numbers, pointers and UMEM addresses of one range, without owning it.
@safe @frozen
public struct FrameLayout: Sendable {
  @usableFromInline nonisolated(unsafe) let base: UnsafeMutableRawPointer
  @usableFromInline let shift: UInt64
  @usableFromInline let length: UInt64

  @usableFromInline
  init(base: UnsafeMutableRawPointer, shift: UInt64, length: UInt64) {
    unsafe self.base = unsafe base
    self.shift = shift
    self.length = length
  }

  /// The UMEM address of a chunk.
  @inlinable @inline(__always)
  public func address(of chunk: UInt32) -> UInt64 { UInt64(chunk) &<< shift }

  /// First byte of a chunk.  The number must be one of the range: it is always ours.
  @inlinable @inline(__always)
  public func pointer(to chunk: UInt32) -> UnsafeMutableRawPointer {
    unsafe base + Int(truncatingIfNeeded: address(of: chunk))
  }

  /// The byte at a UMEM address; nil outside the range.
  @inlinable @inline(__always)
  public func pointer(at address: UInt64) -> UnsafeMutableRawPointer? {
    guard address < length else { return nil }
    return unsafe base + Int(truncatingIfNeeded: address)
  }

  /// The UMEM address of a byte of the range; `pointer` must be one.
  @inlinable @inline(__always)
  public func address(of pointer: UnsafeMutableRawPointer) -> UInt64 {
    UInt64(UInt(bitPattern: unsafe pointer - base))
  }

  /// The chunk that a UMEM address lies in; nil outside the range.  Low bits do not count: some
  /// kernels lose bit 0 of an address on its way through the completion ring.
  @inlinable @inline(__always)
  public func chunk(at address: UInt64) -> UInt32? {
    guard address < length else { return nil }
    return UInt32(truncatingIfNeeded: address &>> shift)
  }
}

/// Owns the memory of the frames.
@safe
public struct FrameMemory: ~Copyable, Sendable {
  /// What the memory is made of.
  public enum Pages: Equatable, Sendable {
    case huge
    /// Huge pages were not to be had.
    case normal
  }

  public let geometry: FrameGeometry
  public let pages: Pages
  /// The NUMA node that the memory prefers; nil: wherever the kernel put it.
  public let node: Int?
  public let layout: FrameLayout
  private let mapping: Mapping

  /// Allocates and touches the memory: from huge pages if there are free ones, else normal pages.
  /// - Parameter node: the NUMA node of the NIC; nil or negative for none.
  /// - Throws: the error of mmap(2).
  public init(_ geometry: FrameGeometry, node: Int? = nil) throws(Errno) {
    let private_ = CInt(MAP_PRIVATE | MAP_ANONYMOUS)
    let hugePage = 2 << 20
    let hugeLength = (geometry.length + hugePage - 1) & ~(hugePage - 1)
    do {
      mapping = try Mapping(length: hugeLength, descriptor: -1, flags: private_ | MAP_HUGETLB)
      pages = .huge
    } catch {
      mapping = try Mapping(length: geometry.length, descriptor: -1, flags: private_)
      pages = .normal
    }
    self.geometry = geometry
    // A preference, not a binding: a node that has no free huge page would be SIGBUS.
    self.node = unsafe FrameMemory.prefer(node, mapping.base, mapping.length)
    unsafe memset(mapping.base, 0, mapping.length)
    layout = unsafe FrameLayout(
      base: mapping.base, shift: UInt64(geometry.chunkSize.trailingZeroBitCount),
      length: UInt64(geometry.length))
  }

  /// Must precede the first touch: pages stay where they were first put.
  private static func prefer(
    _ node: Int?, _ base: UnsafeMutableRawPointer, _ length: Int
  ) -> Int? {
    guard let node, node >= 0, node < UInt.bitWidth, numa_available() >= 0,
      node <= Int(numa_max_node())
    else { return nil }
    var mask: UInt = 1 << UInt(node)
    let result = unsafe mbind(base, UInt(length), MPOL_PREFERRED, &mask, UInt(UInt.bitWidth), 0)
    return result == 0 ? node : nil
  }
}
