// Log lines for people and journals: "vhost-user-xdp: warning: …", one write(2) each, so that
// lines of several threads never mix.  No time stamp: a journal adds its own.
import Glibc
import Logging

struct StandardErrorLog: LogHandler {
  var logLevel: Logger.Level
  var metadata: Logger.Metadata = [:]
  var metadataProvider: Logger.MetadataProvider?

  init(level: Logger.Level) { logLevel = level }

  subscript(metadataKey key: String) -> Logger.Metadata.Value? {
    get { metadata[key] }
    set { metadata[key] = newValue }
  }

  func log(event: LogEvent) {
    StandardErrorLog.write("\(event.level): \(event.message)")
  }

  /// Writes one line; breaks in it become spaces.
  static func write(_ text: String) {
    let line = text.split(whereSeparator: \.isNewline).joined(separator: " ")
    writeAll("vhost-user-xdp: \(line)\n", to: STDERR_FILENO)
  }

  /// Writes `text` to a descriptor, as far as somebody reads it.
  static func writeAll(_ text: String, to descriptor: Int32) {
    var rest = Array(text.utf8)[...]
    while !rest.isEmpty {
      let count = unsafe rest.withUnsafeBytes { unsafe Glibc.write(descriptor, $0.baseAddress, $0.count) }
      if count < 0 && errno == EINTR { continue }
      guard count > 0 else { return }
      rest = rest.dropFirst(count)
    }
  }
}

extension Logger {
  /// A logger that writes to stderr from `level` on.
  static func standardError(level: Logger.Level) -> Logger {
    Logger(label: "vhost-user-xdp") { _ in StandardErrorLog(level: level) }
  }
}
