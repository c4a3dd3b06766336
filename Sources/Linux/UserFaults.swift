// Memory whose missing pages come from somebody else (userfaultfd): whoever touches such a page
// waits until the holder of the descriptor has put it there.
//
// Only faults of user code are taken, which needs no privilege.  A system call that comes to such a page
// fails with EFAULT (sendmsg of packets that leave uncut: they are cut here then, by user code).
import CLinux
import Glibc

public struct UserFaults: ~Copyable, Sendable {
  /// What the holder reads faults from.
  public let descriptor: OwnedDescriptor

  public init() throws(Errno) {
    descriptor = OwnedDescriptor(adopting: try checked(clinux_userfault_open()))
  }

  /// Whether the kernel has it for shared memory and huge pages; asked once.
  public static let areSupported: Bool = {
    do throws(Errno) {
      _ = try UserFaults()
      return true
    } catch { return false }
  }()

  /// From now on, who touches a missing page of this range waits.
  public func register(_ pages: UnsafeMutableRawBufferPointer) throws(Errno) {
    try unsafe checked(
      clinux_userfault_register(descriptor.raw, pages.baseAddress, pages.count))
  }

  /// Ends that: missing pages are zeros again.
  public func unregister(_ pages: UnsafeMutableRawBufferPointer) {
    _ = unsafe clinux_userfault_unregister(descriptor.raw, pages.baseAddress, pages.count)
  }

  /// Puts private zeros in place of the range, for those who wait and those to come.  What others
  /// see of the file behind it does not change; where there is no room for the zeros, it is as if
  /// unregistered.
  public func abandon(_ pages: UnsafeMutableRawBufferPointer) {
    _ = unsafe clinux_userfault_abandon(descriptor.raw, pages.baseAddress, pages.count)
  }
}

/// The result of a wrapper that returns -errno.
@discardableResult
private func checked(_ result: CInt) throws(Errno) -> CInt {
  guard result >= 0 else { throw Errno(-result) }
  return result
}
