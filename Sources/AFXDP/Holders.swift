// Who holds a queue or an interface already, as far as /proc shows it: for error messages.
//
// Only what the caller may read is seen: without CAP_SYS_PTRACE, another user's processes stay
// unnamed, and the message does without.
import Glibc

/// Processes that have mapped the rings of an AF_XDP socket, other than this one.  /proc does not
/// tell interface and queue, so these are candidates.
func socketHolders() -> [String] {
  processes().filter { $0 != getpid() && hasMappedRings($0) }.map(processName)
}

/// Whether there are such that are no daemons like this one: those own other interfaces, for each of
/// them has claimed its own.
func hasForeignHolders() -> Bool {
  socketHolders().contains { !$0.hasSuffix("(vhost-user-xdp)") }
}

/// The process that keeps XDP program `id` attached through a bpf_link.
func programHolder(id: UInt32) -> String? {
  for process in processes() {
    for descriptor in entries(of: "/proc/\(process)/fdinfo") {
      let lines = contents(of: "/proc/\(process)/fdinfo/\(descriptor)").split(separator: "\n")
      if lines.contains("link_type:\txdp"), lines.contains("prog_id:\t\(id)") {
        return processName(process)
      }
    }
  }
  return nil
}

/// A mapping of a socket at the offset of the fill ring (XDP_UMEM_PGOFF_FILL_RING).
private func hasMappedRings(_ process: pid_t) -> Bool {
  contents(of: "/proc/\(process)/maps").split(separator: "\n").contains { line in
    line.contains(" 100000000 ") && line.contains("socket:[")
  }
}

private func processName(_ process: pid_t) -> String {
  let name = contents(of: "/proc/\(process)/comm").split(separator: "\n").first
  return "process \(process)" + (name.map { " (\($0))" } ?? "")
}

private func processes() -> [pid_t] { entries(of: "/proc").compactMap { pid_t($0) } }

private func entries(of folder: String) -> [String] {
  guard let stream = unsafe opendir(folder) else { return [] }
  defer { unsafe closedir(stream) }
  var names: [String] = []
  while let entry = unsafe readdir(stream) {
    let name = unsafe withUnsafePointer(to: &entry.pointee.d_name) {
      unsafe $0.withMemoryRebound(to: CChar.self, capacity: 256) { unsafe String(cString: $0) }
    }
    names.append(name)
  }
  return names
}

/// Empty if the file cannot be read.
private func contents(of path: String) -> String {
  let file = unsafe open(path, O_RDONLY | O_CLOEXEC)
  guard file >= 0 else { return "" }
  defer { close(file) }
  var bytes: [UInt8] = []
  var chunk = [UInt8](repeating: 0, count: 16384)
  while case let count = unsafe read(file, &chunk, chunk.count), count > 0 {
    bytes += chunk[0..<count]
  }
  return String(decoding: bytes, as: UTF8.self)
}
