// The other end of a veth pair, which is mostly in another network namespace.  Only somebody in
// there can ask it, so a thread of ours goes there for one question.
//
// setns(2) changes the namespace of the calling thread alone; the thread ends with its question, so
// no other one is ever in the wrong place.  It needs CAP_SYS_ADMIN, which the daemon does not need
// otherwise: without it the answer is "not known".
import CLinux
import Glibc
import Synchronization

extension Interface.Peer {
  /// Whether `name` in the network namespace with the number `namespace` leaves checksums to its
  /// driver; nil if it cannot be asked.
  static func defersChecksum(_ name: String, inNamespace namespace: Int) -> Bool? {
    guard let door = NetworkNamespaces.open(namespace) else { return nil }
    let answer = Answer()
    let raw = door.raw
    guard
      let thread = try? PinnedThread(
        name: "peer",
        {
          guard clinux_enter_network_namespace(raw) == 0, let socket = try? EthtoolSocket() else {
            return
          }
          let result = socket.defersChecksum(name)
          answer.slot.withLock { $0 = result }
        })
    else { return nil }
    thread.join()
    return answer.slot.withLock { $0 }
  }

  private final class Answer: Sendable {
    let slot = Mutex<Bool?>(nil)
  }
}

/// Other network namespaces of this machine, as far as names or processes lead to them.
enum NetworkNamespaces {
  /// A descriptor of the namespace that has `number` in ours.
  static func open(_ number: Int) -> OwnedDescriptor? {
    guard let netlink = try? NetlinkSocket() else { return nil }
    var seen: Set<UInt64> = []
    let names = directory("/run/netns").map { "/run/netns/\($0)" }
    let processes = directory("/proc").filter { $0.allSatisfy(\.isNumber) }
    for path in names + processes.map({ "/proc/\($0)/ns/net" }) {
      let raw = unsafe Glibc.open(path, O_RDONLY | O_CLOEXEC)
      guard raw >= 0 else { continue }
      let descriptor = OwnedDescriptor(adopting: raw)
      var status = stat()
      guard unsafe fstat(raw, &status) == 0, seen.insert(UInt64(status.st_ino)).inserted else {
        continue
      }
      if (try? netlink.namespaceNumber(of: raw)) == number { return descriptor }
    }
    return nil
  }

  private static func directory(_ path: String) -> [String] {
    guard let directory = unsafe opendir(path) else { return [] }
    defer { unsafe closedir(directory) }
    var names: [String] = []
    while let entry = unsafe readdir(directory) {
      let name = unsafe withUnsafeBytes(of: &entry.pointee.d_name) { bytes in
        unsafe String(decoding: bytes.prefix { $0 != 0 }, as: UTF8.self)
      }
      if !name.hasPrefix(".") { names.append(name) }
    }
    return names
  }
}
