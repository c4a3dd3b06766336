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
  private static let isStuck = Atomic<Bool>(false)

  /// Writes one line; breaks in it become spaces.
  static func write(_ text: String) {
    let wait = isStuck.load(ordering: .relaxed) ? 0 : patience
    let takesWrites = ProcessSettings.takesWrites(STDERR_FILENO, within: wait)
    isStuck.store(!takesWrites, ordering: .relaxed)
    guard takesWrites else { return }
    let line = text.split(whereSeparator: \.isNewline).joined(separator: " ")
    ProcessSettings.write("vhost-user-xdp: \(line)\n", to: STDERR_FILENO)
  }
}

extension Logger {
  /// A logger that writes to stderr from `level` on.
  static func standardError(level: Logger.Level) -> Logger {
    Logger(label: "vhost-user-xdp") { _ in StandardErrorLog(level: level) }
  }
}
