// Frame memory made known to the kernel.  Each queue has a UMEM of its own: queues share nothing,
// and one that is closed takes nothing from the others.
import CLinux
import Glibc
import Linux

extension FrameMemory {
  /// Registers the memory as UMEM of `socket`: aligned chunks, no headroom of ours.
  /// - Parameters:
  ///   - metadata: with room for it in front of transmitted frames.
  ///   - checksumByKernel: the kernel does what metadata asks for (XDP_UMEM_TX_SW_CSUM).
  /// - Returns: false if the kernel knows no metadata, or no such flag; nothing is registered then.
  func register(
    with socket: borrowing MappedSocket, for queue: String, metadata: Bool = false,
    checksumByKernel: Bool = false
  ) throws(XDPSocketError) -> Bool {
    // Linux 6.8 to 6.10 need no flag for the length, and older ones ignore it: without the flag there
    // is no telling them apart.
    var registration = unsafe clinux_umem_registration(
      address: UInt64(UInt(bitPattern: layout.pointer(to: 0))), length: UInt64(geometry.length),
      chunk_size: UInt32(geometry.chunkSize), headroom: 0,
      flags: (metadata ? TransmitMetadata.lengthFlag : 0)
        | (checksumByKernel ? TransmitMetadata.checksumByKernelFlag : 0),
      transmit_metadata_length: UInt32(metadata ? TransmitMetadata.length : 0))
    guard let error = socket.setOption(XDP_UMEM_REG, &registration) else { return true }
    if metadata && error.code == EINVAL { return false }
    let size = "\(geometry.length / 1024) KiB of frame memory"
    guard error.code == ENOBUFS else {
      throw XDPSocketError("cannot register \(size) for \(queue): \(error)", error)
    }
    throw XDPSocketError(
      "cannot register \(size) for \(queue): more than RLIMIT_MEMLOCK allows (\(memoryLockLimit)); "
        + "run `ulimit -l unlimited` before (systemd: LimitMEMLOCK=infinity) or give CAP_IPC_LOCK",
      error)
  }
}

private var memoryLockLimit: String {
  var limit = rlimit()
  // RLIMIT_MEMLOCK is 8 on every Linux architecture but MIPS and SPARC.
  guard unsafe getrlimit(__rlimit_resource_t(8), &limit) == 0 else { return "unknown" }
  return limit.rlim_cur == rlim_t.max ? "unlimited" : "\(limit.rlim_cur / 1024) KiB"
}
