// Frame memory made known to the kernel.  Each queue has a UMEM of its own: queues share nothing,
// and one that is closed takes nothing from the others.
import CLinux
import Glibc
import Linux

extension FrameMemory {
  /// Registers the memory as UMEM of `socket`: aligned chunks, no headroom of ours.
  func register(with socket: borrowing MappedSocket, for queue: String) throws(XDPSocketError) {
    var registration = unsafe xdp_umem_reg(
      addr: UInt64(UInt(bitPattern: layout.pointer(to: 0))), len: UInt64(geometry.length),
      chunk_size: UInt32(geometry.chunkSize), headroom: 0, flags: 0)
    guard let error = socket.setOption(XDP_UMEM_REG, &registration) else { return }
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
