// Which Linux this is, for what no probe can tell.
import CLinux

/// The first two numbers of a kernel's release.
public struct KernelRelease: Comparable, Sendable, CustomStringConvertible {
  public var major: Int
  public var minor: Int

  public init(_ major: Int, _ minor: Int) {
    self.major = major
    self.minor = minor
  }

  /// The kernel that runs.
  public static var running: KernelRelease {
    let release = Int(clinux_kernel_release())
    return KernelRelease(release >> 16, release & 0xffff)
  }

  public static func < (a: KernelRelease, b: KernelRelease) -> Bool {
    (a.major, a.minor) < (b.major, b.minor)
  }

  public var description: String { "\(major).\(minor)" }
}
