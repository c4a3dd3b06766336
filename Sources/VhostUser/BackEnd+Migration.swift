// Live migration, the old host's side: the log of written pages (vhost-user specification,
// "Migration").
//
// Every ring that may write is told of a log when it starts, so each change here restarts the
// rings, which costs them nothing but a moment: indices stay, and so do frames that wait.  The new
// log is in use when the request is answered; the front-end reads the old one out after that.
import GuestMemory
import Linux
import Virtqueue

/// What a session knows of its guest's migration.
struct MigrationLog {
  var log: DirtyLog?
  /// SET_LOG_FD.
  var event: EventDescriptor?
  /// The last log that the front-end wanted could not be had.  Not every front-end looks at the
  /// answer, so LOG_ALL is refused then: a migration without a log would lose memory.
  var wasRefused = false
}

extension BackEnd {
  /// How a ring's writes are logged.
  func ringLog(_ ring: Int) -> RingLog? {
    guard let log = migration.log, let addresses = rings[ring].addresses else { return nil }
    let buffers = features.contains(.logAll)
    let usedRing = addresses.flags & VringAddresses.logFlag != 0
    guard buffers || usedRing else { return nil }
    return RingLog(log, buffers: buffers, usedRing: usedRing ? addresses.log : nil)
  }

  /// SET_LOG_BASE: a log, or another one.
  func setLog(
    _ description: LogDescription, _ files: inout ReceivedDescriptors
  ) throws(VhostUserError) -> Reply {
    migration.wasRefused = true
    // A ring there may be scattered over guest memory, and only its I/O virtual address is known.
    guard !features.contains(.accessPlatform) else { throw .logBehindIOMMU }
    guard let file = try take(.sharedMemory, of: &files, request: "SET_LOG_BASE") else {
      throw .wrongDescriptorCount(request: "SET_LOG_BASE", count: 0, expected: "1")
    }
    let log: DirtyLog
    do throws(DirtyLogError) {
      log = try DirtyLog(
        file, offset: description.offset, size: description.size, event: migration.event, of: alarm)
      try log.check(covers: memory)
    } catch { throw .log(request: "SET_LOG_BASE", error) }
    reportMissedPages()
    migration.log = log
    migration.wasRefused = false
    // Front-ends that read the answer expect a number, others anything.
    return .number(0)
  }

  /// SET_LOG_FD: written to when pages are marked.
  func setLogEvent(_ descriptors: inout ReceivedDescriptors) throws(VhostUserError) -> Reply {
    migration.event = try takeEvent(of: &descriptors, request: "SET_LOG_FD")
    migration.log = migration.log.map { DirtyLog($0, event: migration.event) }
    return .acknowledge
  }

  /// LOG_ALL is about to be negotiated, or not any more.
  func checkLog(_ wanted: VirtioFeatures) throws(VhostUserError) {
    guard wanted.contains(.logAll) else { return }
    if migration.wasRefused { throw .logMissing }
  }

  /// The front-end has no use for the log any more.
  func dropLog() {
    reportMissedPages()
    migration.log = nil
    migration.wasRefused = false
  }

  /// The memory table grew: a front-end sends a larger log before.
  func checkLogCoversMemory() {
    guard features.contains(.logAll), let log = migration.log else { return }
    do throws(DirtyLogError) { try log.check(covers: memory) } catch {
      warn("\(error); pages beyond it will be missing at the guest's new host")
    }
  }

  /// Before a log is given up.
  func reportMissedPages() {
    guard let pages = migration.log?.missedPages, pages > 0 else { return }
    warn(
      "\(pages) pages were written beyond the end of the log of "
        + "\(migration.log?.size ?? 0) bytes: the front-end has not heard of them")
  }
}
