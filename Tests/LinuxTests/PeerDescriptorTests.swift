// What a peer's descriptor is, and calls on one that must not last.
import CLinux
import Glibc
import Linux
import Testing

@Suite("A peer's descriptors")
struct PeerDescriptorTests {
  /// As they arrive with a message; `raw` stays the caller's.
  private func received(_ raw: CInt) throws -> ReceivedDescriptors {
    var descriptors = ReceivedDescriptors()
    let number = try checkedCall { fcntl(raw, F_DUPFD_CLOEXEC, 0) }
    descriptors.append(OwnedDescriptor(adopting: number))
    return descriptors
  }

  private func fits(_ raw: CInt, _ kind: DescriptorKind) throws -> Bool {
    var descriptors = try received(raw)
    do throws(WrongDescriptorKind) {
      return try descriptors.takeFirst(kind) != nil
    } catch {
      #expect(error.expected == kind && !error.description.isEmpty)
      #expect(descriptors.count == 1, "it is still there, and closed with the others")
      return false
    }
  }

  /// Both ends of a pipe or of a pair of Unix sockets.
  private final class Ends {
    let first: OwnedDescriptor
    let second: OwnedDescriptor

    /// - Parameter type: of the sockets; nil: a pipe.
    init(_ type: __socket_type? = nil) throws {
      var ends: [CInt] = [-1, -1]
      if let type {
        try checkedCall {
          unsafe socketpair(AF_UNIX, CInt(type.rawValue | SOCK_CLOEXEC.rawValue), 0, &ends)
        }
      } else {
        try checkedCall { unsafe pipe2(&ends, O_CLOEXEC) }
      }
      first = OwnedDescriptor(adopting: ends[0])
      second = OwnedDescriptor(adopting: ends[1])
    }
  }

  @Test("each is taken for what it is")
  func kinds() throws {
    let event = try EventDescriptor()
    let memory = OwnedDescriptor(
      adopting: try checkedCall { unsafe memfd_create("kind", UInt32(MFD_CLOEXEC)) })
    let pipe = try Ends()
    let sockets = try Ends(SOCK_STREAM)
    let datagram = try Ends(SOCK_DGRAM)
    let epoll = try EpollSet()
    let program = OwnedDescriptor(
      adopting: try checkedCall { unsafe open("/proc/self/exe", O_RDONLY | O_CLOEXEC) })
    let device = OwnedDescriptor(
      adopting: try checkedCall { unsafe open("/dev/zero", O_RDWR | O_CLOEXEC) })
    let path = OwnedDescriptor(
      adopting: try checkedCall { unsafe open("/", CInt(O_CLOEXEC) | 0o10000000) })
    let rows: [(CInt, [DescriptorKind])] = [
      (event.raw, [.event]), (memory.raw, [.sharedMemory]),
      (pipe.first.raw, [.pipe]), (pipe.second.raw, [.pipe]),
      (sockets.first.raw, [.streamSocket]), (datagram.first.raw, []), (epoll.raw, []),
      (program.raw, []), (device.raw, []), (path.raw, []),
    ]
    for (index, row) in rows.enumerated() {
      for kind in [DescriptorKind.event, .sharedMemory, .streamSocket, .pipe] {
        #expect(try fits(row.0, kind) == row.1.contains(kind), "row \(index), \(kind)")
      }
    }
    #expect(!event.drain(), "being looked at has left nothing in it")
  }

  /// A peer's event as the peer has it, and as this side does.
  private func event(of peer: PeerAlarm) throws -> (theirs: CInt, ours: EventDescriptor) {
    let raw = try checkedCall { eventfd(0, CInt(EFD_CLOEXEC)) }
    var descriptors = try received(raw)
    return (raw, try descriptors.takeFirstEvent(of: peer)!)
  }

  private func fill(_ raw: CInt) throws {
    var most = UInt64.max - 1
    #expect(unsafe write(raw, &most, 8) == 8)
    let flags = try checkedCall { fcntl(raw, F_GETFL) }
    try checkedCall { fcntl(raw, F_SETFL, flags & ~O_NONBLOCK) }
  }

  @Test("an event that is full and blocks keeps who signals it a moment, once, and is told")
  func blocked() throws {
    let peer = PeerAlarm()
    let (raw, ours) = try event(of: peer)
    defer { close(raw) }
    ours.signal()
    #expect(peer.reasons == [])
    var value: UInt64 = 0
    #expect(unsafe read(raw, &value, 8) == 8 && value == 1)
    try fill(raw)

    let clock = ContinuousClock()
    #expect(clock.measure { ours.signal() } < .seconds(60))
    #expect(peer.reasons == .eventBlocked)
    var poller = pollfd(fd: peer.descriptor!, events: Int16(POLLIN), revents: 0)
    #expect(unsafe poll(&poller, 1, 0) == 1)
    // None that follows keeps anybody, in whatever thread.
    let thread = try PinnedThread(name: "signals") { for _ in 0..<1000 { ours.signal() } }
    thread.join()
  }

  @Test("one that was signalled before by this thread, and long ago, is let go too")
  func blockedLater() throws {
    let peer = PeerAlarm()
    let (raw, ours) = try event(of: peer)
    defer { close(raw) }
    ours.signal()
    // The timer of the first call has found nobody, and stopped.
    usleep(500_000)
    var value: UInt64 = 0
    #expect(unsafe read(raw, &value, 8) == 8)
    try fill(raw)
    ours.signal()
    #expect(peer.reasons == .eventBlocked)
  }

  @Test("the tick that follows a signal to a peer does not cut a wait short")
  func waitsOn() throws {
    let peer = PeerAlarm()
    let (raw, ours) = try event(of: peer)
    defer { close(raw) }
    let quiet = try EventDescriptor()
    ours.signal()
    let waited = ContinuousClock().measure {
      #expect(waitFor(Int16(POLLIN), of: quiet.raw, milliseconds: 600) == 0)
    }
    #expect(waited > .milliseconds(550), "\(waited)")
  }

  @Test("one that is full and does not block is the peer's loss")
  func full() throws {
    let peer = PeerAlarm()
    let (raw, ours) = try event(of: peer)
    defer { close(raw) }
    var most = UInt64.max - 1
    #expect(unsafe write(raw, &most, 8) == 8)
    ours.signal()
    #expect(peer.reasons == [])
  }

  @Test("reading a pipe that was made to block again ends")
  func pipe() throws {
    let ends = try Ends()
    let from = PeerPipe(adopting: try ends.first.duplicate())
    var bytes: [UInt8] = [0, 0]
    #expect(from.read(into: &bytes) == .failed(Errno(EINTR)))
    #expect(unsafe write(ends.second.raw, [5], 1) == 1)
    #expect(from.read(into: &bytes) == .done(1))
  }

  @Test("what may wait when it is closed is closed all the same")
  func closed() throws {
    let socket = OwnedDescriptor(
      adopting: try checkedCall {
        Glibc.socket(AF_INET, CInt(SOCK_STREAM.rawValue | SOCK_CLOEXEC.rawValue), 0)
      })
    let raw = try checkedCall { fcntl(socket.raw, F_DUPFD_CLOEXEC, 700) }
    clinux_foreign_close(raw)
    for _ in 0..<20_000 where fcntl(raw, F_GETFD) >= 0 { usleep(1000) }
    #expect(fcntl(raw, F_GETFD) < 0)
    let event = try EventDescriptor()
    let copy = try checkedCall { fcntl(event.raw, F_DUPFD_CLOEXEC, 700) }
    clinux_foreign_close(copy)
    #expect(fcntl(copy, F_GETFD) < 0, "an event is closed at once")
  }
}
