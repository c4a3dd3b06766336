// Waiting with an end, and reading files: what every step of a test does.
import Glibc

/// Seconds of the monotonic clock.
func now() -> Double {
  var time = timespec()
  unsafe clock_gettime(CLOCK_MONOTONIC, &time)
  return Double(time.tv_sec) + Double(time.tv_nsec) / 1e9
}

func sleep(_ seconds: Double) {
  usleep(UInt32(seconds * 1e6))
}

/// Waits until `condition` holds, looking every 10 ms.
///
/// A limit is patience, not what is expected: a busy machine may stand still for seconds.  So the last look
/// is one that began after the limit.
///
/// - Parameters:
///   - what: what is waited for, for the message when it does not come.
///   - log: a file whose last lines go into that message.
func eventually(
  within seconds: Double, _ what: String, log: String? = nil, _ condition: () throws -> Bool
) throws {
  let end = now() + seconds
  while true {
    let isLast = now() >= end
    if try condition() { return }
    guard !isLast else {
      let context = log.map { "\n" + tail(of: $0) } ?? ""
      throw HarnessError("not within \(seconds) s: \(what)\(context)")
    }
    sleep(0.01)
  }
}

/// A number once it stands still.
func settledCount(_ read: () throws -> Int) throws -> Int {
  var last = try read()
  try eventually(within: 60, "a count stands still") {
    sleep(0.3)
    let current = try read()
    defer { last = current }
    return current == last
  }
  return last
}

/// The whole file as text; empty if it cannot be read.
func contents(of path: String) -> String {
  let descriptor = unsafe open(path, O_RDONLY | O_CLOEXEC)
  guard descriptor >= 0 else { return "" }
  defer { close(descriptor) }
  var all: [UInt8] = []
  var buffer = [UInt8](repeating: 0, count: 65536)
  while true {
    let count = unsafe read(descriptor, &buffer, buffer.count)
    guard count > 0 else { return String(decoding: all, as: UTF8.self) }
    all.append(contentsOf: buffer[..<count])
  }
}

/// The last lines of a file, for messages.
func tail(of path: String, lines: Int = 15) -> String {
  contents(of: path).split(separator: "\n", omittingEmptySubsequences: false).suffix(lines)
    .joined(separator: "\n")
}

func exists(_ path: String) -> Bool {
  unsafe access(path, F_OK) == 0
}

/// How many entries a folder has; 0 if it cannot be read.
func entries(in folder: String) -> Int { contents(ofFolder: folder).count }

/// The names in a folder; none if it cannot be read.
func contents(ofFolder folder: String) -> [String] {
  guard let directory = unsafe opendir(folder) else { return [] }
  defer { unsafe closedir(directory) }
  var names: [String] = []
  while let entry = unsafe readdir(directory) {
    let name = unsafe withUnsafePointer(to: &entry.pointee.d_name) {
      unsafe $0.withMemoryRebound(to: CChar.self, capacity: 256) { unsafe String(cString: $0) }
    }
    if name != "." && name != ".." { names.append(name) }
  }
  return names
}
