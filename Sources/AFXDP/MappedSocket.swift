// The descriptor of an AF_XDP socket and the mappings of its rings, which go together: a ring
// mapping holds the socket open, so the rings are unmapped first, or a close frees nothing.
import CLinux
import Glibc
import Linux

/// SOL_XDP, which Swift's Glibc module lacks.
private let xdpLevel: CInt = 283

@safe
struct MappedSocket: ~Copyable, @unchecked Sendable {
  let descriptor: CInt
  private var mappings: [(base: UnsafeMutableRawPointer, length: Int)] = unsafe []

  /// XDP_USE_SG (Linux 6.6), which older headers lack.
  static let multiBufferFlag: UInt16 = 1 << 4

  /// Opens an unbound AF_XDP socket.
  init() throws(Errno) {
    descriptor = try checkedCall {
      socket(AF_XDP, CInt(SOCK_RAW.rawValue | SOCK_CLOEXEC.rawValue), 0)
    }
  }

  /// Takes over an unbound AF_XDP socket that another process has opened.
  init(adopting socket: consuming OwnedDescriptor) { descriptor = socket.release() }

  deinit {
    unsafe mappings.forEach { unsafe munmap($0.base, $0.length) }
    close(descriptor)
  }

  /// A second descriptor, for another process; this one is closed with its owner.
  func duplicate() throws(Errno) -> OwnedDescriptor {
    OwnedDescriptor(adopting: try checkedCall { fcntl(descriptor, F_DUPFD_CLOEXEC, 0) })
  }

  /// Sets an option; returns the error, nil if there is none.
  func setOption<Value: BitwiseCopyable>(
    _ option: CInt, level: CInt = xdpLevel, _ value: inout Value
  ) -> Errno? {
    let result = unsafe setsockopt(
      descriptor, level, option, &value, socklen_t(MemoryLayout<Value>.size))
    return result < 0 ? Errno.current : nil
  }

  /// Reads an option.
  func option<Value: BitwiseCopyable>(
    _ option: CInt, level: CInt = xdpLevel, default value: Value
  ) throws(Errno) -> Value {
    var value = value
    var length = socklen_t(MemoryLayout<Value>.size)
    guard unsafe getsockopt(descriptor, level, option, &value, &length) == 0 else {
      throw Errno.current
    }
    return value
  }

  /// Creates and maps the four rings; the mappings live as long as the socket.
  mutating func mapRings(_ sizes: XDPRingSizes) throws(Errno) -> MappedRings {
    var receive = UInt32(sizes.receive)
    var transmit = UInt32(sizes.transmit)
    for option in [XDP_UMEM_FILL_RING, XDP_RX_RING] {
      if let error = setOption(option, &receive) { throw error }
    }
    for option in [XDP_UMEM_COMPLETION_RING, XDP_TX_RING] {
      if let error = setOption(option, &transmit) { throw error }
    }
    let offsets = try option(XDP_MMAP_OFFSETS, default: xdp_mmap_offsets())
    return unsafe MappedRings(
      fill: try map(offsets.fr, receive, entrySize: 8, XDP_UMEM_PGOFF_FILL_RING),
      receive: try map(offsets.rx, receive, entrySize: 16, UInt64(XDP_PGOFF_RX_RING)),
      transmit: try map(offsets.tx, transmit, entrySize: 16, UInt64(XDP_PGOFF_TX_RING)),
      completion: try map(offsets.cr, transmit, entrySize: 8, XDP_UMEM_PGOFF_COMPLETION_RING))
  }

  private mutating func map(
    _ ring: xdp_ring_offset, _ size: UInt32, entrySize: Int, _ pageOffset: UInt64
  ) throws(Errno) -> RingMemory {
    let length = Int(ring.desc) + Int(size) * entrySize
    let base = unsafe mmap(
      nil, length, PROT_READ | PROT_WRITE, MAP_SHARED | CInt(MAP_POPULATE), descriptor,
      off_t(pageOffset))
    guard let base = unsafe base, unsafe base != MAP_FAILED else { throw Errno.current }
    unsafe mappings.append((base, length))
    return unsafe RingMemory(
      producer: base + Int(ring.producer), consumer: base + Int(ring.consumer),
      flags: base + Int(ring.flags), entries: base + Int(ring.desc), size: size)
  }
}

/// The rings of one socket, as mapped.
@unsafe
struct MappedRings {
  var fill: RingMemory
  var receive: RingMemory
  var transmit: RingMemory
  var completion: RingMemory
}
