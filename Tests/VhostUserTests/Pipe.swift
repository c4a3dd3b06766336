// A pipe tells when the last copy of its write end is closed: the way to see that one descriptor
// of many is not held any more, whatever other tests open at the same time.  A pair of sockets, in
// fact: it can be made close-on-exec at once, and other tests start processes meanwhile.
import Glibc
import Linux

final class Pipe {
  var writeEnd: EventDescriptor?
  private let readEnd: OwnedDescriptor

  init() throws {
    var ends: [CInt] = [-1, -1]
    let type = CInt(SOCK_STREAM.rawValue | SOCK_CLOEXEC.rawValue)
    try checkedCall { unsafe socketpair(AF_UNIX, type, 0, &ends) }
    readEnd = OwnedDescriptor(adopting: ends[0])
    writeEnd = EventDescriptor(adopting: OwnedDescriptor(adopting: ends[1]))
  }

  /// What comes out of the write end, which is one of two alike.
  func write(_ bytes: [UInt8]) { _ = unsafe Glibc.write(readEnd.raw, bytes, bytes.count) }

  /// Whether no process holds the write end.  What a peer has sent may be closed by a thread of its own, and
  /// a child that another test starts holds it until it runs, so that is waited for.
  var isClosed: Bool { hangsUp(within: 30_000) }

  /// Whether somebody holds the write end, and goes on holding it for a while.
  var isOpen: Bool { !hangsUp(within: 2000) }

  private func hangsUp(within milliseconds: CInt) -> Bool {
    var poller = pollfd(fd: readEnd.raw, events: 0, revents: 0)
    var ready: CInt = -1
    repeat { ready = unsafe poll(&poller, 1, milliseconds) } while ready < 0 && errno == EINTR
    return ready == 1 && poller.revents & Int16(POLLHUP) != 0
  }
}
