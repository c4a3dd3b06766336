// Memory mappings have one owner, which unmaps them.
import Glibc
import CLinux

/// A `mmap`ed range that is unmapped when its owner goes.
@safe
public struct Mapping: ~Copyable, @unchecked Sendable {
  public let base: UnsafeMutableRawPointer
  /// Bytes mapped.
  public let length: Int

  /// Maps `length` bytes of `descriptor` (or anonymous memory for -1), readable and writable.
  /// - Parameter flags: of mmap(2), for example `MAP_SHARED`.
  public init(length: Int, descriptor: CInt, offset: Int = 0, flags: CInt) throws(Errno) {
    let result = unsafe mmap(nil, length, PROT_READ | PROT_WRITE, flags, descriptor, off_t(offset))
    guard let result = unsafe result, unsafe result != MAP_FAILED else { throw Errno.current }
    unsafe base = result
    self.length = length
  }

  deinit { unsafe munmap(base, length) }
}
