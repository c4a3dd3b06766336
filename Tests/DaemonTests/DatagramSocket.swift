// The service manager's end of NOTIFY_SOCKET.
import Glibc
import Linux

struct DatagramSocket: ~Copyable {
  private let descriptor: OwnedDescriptor

  init(abstractName name: String) throws {
    descriptor = try DatagramSocket.bound(to: name)
  }

  private static func bound(to name: String) throws -> OwnedDescriptor {
    let raw = socket(AF_UNIX, CInt(SOCK_DGRAM.rawValue | SOCK_CLOEXEC.rawValue), 0)
    guard raw >= 0 else { throw Errno.current }
    let descriptor = OwnedDescriptor(adopting: raw)
    var address = sockaddr_un()
    address.sun_family = sa_family_t(AF_UNIX)
    unsafe withUnsafeMutableBytes(of: &address.sun_path) { bytes in
      for (i, byte) in name.utf8.enumerated() { unsafe bytes[i + 1] = byte }
    }
    let size = socklen_t(MemoryLayout<sa_family_t>.size + 1 + name.utf8.count)
    let result = unsafe withUnsafeBytes(of: &address) {
      unsafe bind(raw, $0.baseAddress!.assumingMemoryBound(to: sockaddr.self), size)
    }
    guard result == 0 else { throw Errno.current }
    return descriptor
  }

  /// The next datagram; nil if none comes in time.
  func next(within milliseconds: CInt = 30_000) -> String? {
    let events = waitFor(Int16(POLLIN), of: descriptor.raw, milliseconds: milliseconds)
    guard events != 0 else { return nil }
    var buffer = [UInt8](repeating: 0, count: 4096)
    let count = unsafe recv(descriptor.raw, &buffer, buffer.count, 0)
    return count >= 0 ? String(decoding: buffer.prefix(count), as: UTF8.self) : nil
  }
}
