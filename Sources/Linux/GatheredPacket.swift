// A packet as a packet socket takes it: a virtio_net_hdr, and behind it the packet's bytes, wherever
// they lie.  The runs are kept in memory of their own, so that sending allocates nothing.
import Glibc

/// A packet in runs of memory that somebody else owns; they must be there when it is sent.
@safe
public struct GatheredPacket: ~Copyable, @unchecked Sendable {
  /// UIO_MAXIOV: more the kernel does not take.
  public static let mostRuns = 1024
  /// struct virtio_net_hdr_mrg_rxbuf; without its last field it is a struct virtio_net_hdr.
  static let headerSize = 12

  /// The header is the first one.
  let runs: UnsafeMutablePointer<iovec>
  private let header: UnsafeMutableRawPointer
  private let countCell: UnsafeMutablePointer<Int>
  private let capacity: Int

  /// - Parameter capacity: runs of the packet itself; one less than `mostRuns` at most.
  public init(capacity: Int = GatheredPacket.mostRuns - 1) {
    precondition(capacity >= 0 && capacity < GatheredPacket.mostRuns)
    self.capacity = capacity + 1
    unsafe runs = .allocate(capacity: capacity + 1)
    unsafe header = .allocate(byteCount: 16, alignment: 16)
    unsafe countCell = .allocate(capacity: 1)
    unsafe runs.initialize(
      repeating: iovec(iov_base: header, iov_len: GatheredPacket.headerSize), count: capacity + 1)
    unsafe countCell.initialize(to: 1)
    removeAll()
  }

  deinit {
    unsafe runs.deallocate()
    unsafe header.deallocate()
    unsafe countCell.deallocate()
  }

  /// Runs with that of the header.
  var count: Int { unsafe countCell.pointee }

  /// Becomes an empty packet with this header (little-endian words; `VirtioNetHeader`); zeros ask
  /// for nothing.
  public func removeAll(header low: UInt64 = 0, _ high: UInt32 = 0) {
    unsafe header.storeBytes(of: low, as: UInt64.self)
    unsafe header.storeBytes(of: high, toByteOffset: 8, as: UInt32.self)
    unsafe countCell.pointee = 1
  }

  /// Appends `count` bytes.  Returns false if there are as many runs as there may be.
  @unsafe public func append(_ bytes: UnsafeRawPointer, count: Int) -> Bool {
    let next = unsafe countCell.pointee
    guard next < capacity else { return false }
    unsafe runs[next] = iovec(iov_base: UnsafeMutableRawPointer(mutating: bytes), iov_len: count)
    unsafe countCell.pointee = next &+ 1
    return true
  }

  /// The header and the packet, as bytes: for who wants to look at them.
  public var bytes: [UInt8] {
    var bytes: [UInt8] = []
    for i in 0..<count {
      unsafe bytes += UnsafeRawBufferPointer(
        start: runs[i].iov_base, count: i == 0 ? GatheredPacket.headerSize : runs[i].iov_len)
    }
    return bytes
  }
}
