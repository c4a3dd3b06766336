// Shared memory that is handed to a peer: its length is sealed, so that neither side can take it
// away from under the other (memfd_create(2), F_ADD_SEALS of fcntl(2)).
import CLinux

extension OwnedDescriptor {
  /// A file of `length` zeros in memory.
  /// - Parameter name: shown in /proc.
  public static func sealedMemory(name: String, length: Int) throws(Errno) -> OwnedDescriptor {
    let result = unsafe clinux_sealed_memory(name, max(0, length))
    guard result >= 0 else { throw Errno(-result) }
    return OwnedDescriptor(adopting: result)
  }
}
