// Log lines for people and journals: "vhost-user-xdp: warning: …", one write(2) each, so that
// lines of several threads never mix.  No time stamp: a journal adds its own.
//
// A reader that does not read must not stop a guest: when its pipe is full, a line is waited with for a
// moment, and those after it are dropped until there is room again.
import Glibc
import Linux
import Logging
import Synchronization

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

  /// How long the first line waits for a reader, in milliseconds.
  private static let patience: CInt = 100
  /// The reader does not read; locked from the look whether it does to the end of the line.
  private static let isStuck = Mutex(false)
  /// PIPE_BUF: so much a pipe that takes anything takes at once.
  private static let longest = 4096

  /// Writes one line; breaks in it become spaces.
  static func write(_ text: String) {
    let line = "vhost-user-xdp: " + text.split(whereSeparator: \.isNewline).joined(separator: " ")
    isStuck.withLock { isStuck in
      isStuck = !ProcessSettings.takesWrites(STDERR_FILENO, within: isStuck ? 0 : patience)
      guard !isStuck else { return }
      let whole = String(decoding: line.utf8.prefix(longest - 1), as: UTF8.self)
      ProcessSettings.write(whole + "\n", to: STDERR_FILENO)
    }
  }
}

extension Logger {
  /// A logger that writes to stderr from `level` on.
  static func standardError(level: Logger.Level) -> Logger {
    Logger(label: "vhost-user-xdp") { _ in StandardErrorLog(level: level) }
  }
}
