// What a front-end does behind the back-end's back, or leaves half done: it costs that session, and
// within a known time.
import Glibc
import GuestDriver
import GuestMemory
import Linux
import Testing
import Virtqueue

@testable import VhostUser

@Suite("Hostile front-ends")
struct HostileFrontEndTests {
  /// A session with memory, whose file the front-end keeps.
  private func sharing() throws -> (ScriptedFrontEnd, EventDescriptor) {
    let front = try ScriptedFrontEnd()
    try front.negotiate()
    let file = try memoryFile(1 << 20)
    try front.send(5, table([.megabyte]), descriptors: [file.raw])
    try front.setUp(0)
    // No event, but its owner may be handed on.
    return (front, EventDescriptor(adopting: file))
  }

  private func isReadable(_ descriptor: CInt?) -> Bool {
    var poller = pollfd(fd: descriptor ?? -1, events: Int16(POLLIN), revents: 0)
    return unsafe poll(&poller, 1, 0) == 1
  }

  @Test("memory that is cut ends the session when somebody touches it, without a message")
  func cutMemory() throws {
    let (front, file) = try sharing()
    let raw = file.raw
    try checkedCall { ftruncate(raw, 0) }
    #expect(!isReadable(front.back.descriptor), "nobody has missed it")
    let region = front.back.memory.regions[0]
    unsafe region.base.storeBytes(of: 1, as: UInt8.self)
    #expect(isReadable(front.back.descriptor))
    front.run()
    #expect(front.outcome == .failure(.memoryLost))
    #expect(front.back.hasEnded && front.device.running.isEmpty)
    #expect("\(VhostUserError.memoryLost)".contains("memory-backend-memfd"))
  }

  @Test("so does an in-flight area, and a log")
  func cutOthers() throws {
    let (front, _) = try sharing()
    let area = try memoryFile(1 << 20)
    let raw = area.raw
    #expect(
      try front.acknowledged(
        32, bytes(1 << 20, 0, 4 | 64 << 16), descriptors: [raw]) == 0)
    try checkedCall { ftruncate(raw, 0) }
    // RESET_DEVICE clears it.
    #expect(try front.acknowledged(34) == 0)
    front.run()
    #expect(front.outcome == .failure(.memoryLost))

    let (other, _) = try sharing()
    let log = try memoryFile(4096)
    let number = log.raw
    #expect(try other.send(6, bytes(4096, 0), descriptors: [number]) == bytes(0))
    try checkedCall { ftruncate(number, 0) }
    other.back.migration.log?.view.mark(0, length: 1)
    other.run()
    #expect(other.outcome == .failure(.memoryLost))
  }

  @Test("a session's memory that is cut is no other's concern")
  func apart() throws {
    let (front, file) = try sharing()
    let (other, _) = try sharing()
    let raw = file.raw
    try checkedCall { ftruncate(raw, 0) }
    unsafe front.back.memory.regions[0].base.storeBytes(of: 1, as: UInt8.self)
    other.run()
    #expect(other.outcome == nil)
    front.run()
    #expect(front.outcome == .failure(.memoryLost))
  }

  @Test("descriptors of a wrong kind are refused, and nothing changes")
  func wrongKinds() throws {
    let (front, file) = try sharing()
    let memory = front.back.memory
    let kick = front.back.rings[0].call
    let pipe = try Pipe()
    for wrong in [file.raw, pipe.writeEnd!.raw] {
      for request in [12, 13, 14] as [UInt32] {
        #expect(try front.acknowledged(request, bytes(0), descriptors: [wrong]) == 1)
        #expect(front.warnings.last!.contains("no eventfd"))
      }
      #expect(try front.acknowledged(7, descriptors: [wrong]) == 1)
    }
    #expect(
      try front.acknowledged(5, table([.megabyte]), descriptors: [pipe.writeEnd!.raw]) == 1)
    #expect(front.warnings.last!.contains("memory-backend-memfd"))
    #expect(
      try front.acknowledged(
        37, bytes(0) + region(.secondMegabyte), descriptors: [pipe.writeEnd!.raw]) == 1)
    #expect(
      try front.acknowledged(
        32, bytes(4096, 0, 2 | 64 << 16), descriptors: [pipe.writeEnd!.raw]) == 1)
    #expect(try front.send(6, bytes(4096, 0), descriptors: [pipe.writeEnd!.raw]) == bytes(1))
    #expect(try front.acknowledged(21, descriptors: [file.raw]) == 1)
    #expect(front.warnings.last!.contains("no Unix stream socket"))
    #expect(front.back.memory === memory && front.back.rings[0].call === kick)
    #expect(front.back.startedRings == [0])
    pipe.writeEnd = nil
    #expect(pipe.isClosed)
  }

  // Nobody would ever see the end of it.
  @Test(
    "the front-end's own end of the connection is no channel, and no state comes by it",
    arguments: ["listening", "connecting", "inherited"])
  func ownEnd(way: String) throws {
    let path = "/tmp/own-end-test.\(getpid()).\(way)"
    let front: ScriptedFrontEnd
    if way == "inherited" {
      var ends: [CInt] = [-1, -1]
      let type = CInt(SOCK_STREAM.rawValue | SOCK_CLOEXEC.rawValue)
      try checkedCall { unsafe socketpair(AF_UNIX, type, 0, &ends) }
      front = ScriptedFrontEnd(
        front: UnixSocket(adopting: OwnedDescriptor(adopting: ends[0])),
        back: try UnixSocket(inherited: ends[1]))
    } else {
      let listener = try UnixSocketListener(path: path)
      let connected = try UnixSocket(connectingTo: path)
      // The connection is there already.
      let accepted = try listener.accept()!
      front =
        way == "listening"
        ? ScriptedFrontEnd(front: connected, back: accepted)
        : ScriptedFrontEnd(front: accepted, back: connected)
    }
    try front.negotiate()
    #expect(try front.acknowledged(21, descriptors: [front.raw]) == 1)
    #expect(front.warnings.last?.contains("own end of this connection") == true)
    let hasChannel = front.back.channel != nil
    #expect(!hasChannel)
    #expect(try front.send(42, bytes(1), descriptors: [front.raw]) == bytes(0x101))
    let pipe = try Pipe()
    #expect(try front.acknowledged(21, descriptors: [pipe.writeEnd!.raw]) == 0)
  }

  // What is sent over it then would lie in it for as long as the session lasts.
  @Test("a channel that brings nonsense is let go")
  func nonsenseOverChannel() throws {
    let front = try ScriptedFrontEnd()
    try front.negotiate()
    let pipe = try Pipe()
    #expect(try front.acknowledged(21, descriptors: [pipe.writeEnd!.raw]) == 0)
    pipe.writeEnd = nil
    pipe.write([UInt8](repeating: 1, count: 20))
    front.run()
    #expect(pipe.isClosed)
    front.back.configurationChanged()
    #expect(try front.acknowledged(3) == 0)
  }

  @Test("an event that blocks ends the session")
  func blockedEvent() throws {
    let (front, _) = try sharing()
    let event = try EventDescriptor()
    let raw = event.raw
    try front.send(14, bytes(0), descriptors: [raw])
    var most = UInt64.max - 1
    #expect(unsafe write(raw, &most, 8) == 8)
    let flags = try checkedCall { fcntl(raw, F_GETFL) }
    try checkedCall { fcntl(raw, F_SETFL, flags & ~O_NONBLOCK) }
    front.back.rings[0].error?.signal()
    #expect(isReadable(front.back.descriptor))
    front.run()
    #expect(front.outcome == .failure(.eventBlocked))
  }

  @Test("an alarm that has no descriptor is looked at from time to time")
  func unwatchedAlarm() throws {
    let front = try ScriptedFrontEnd()
    front.back.isAlarmWatched = false
    front.back.alarmPatience = 100
    front.run()
    #expect(0...100 ~= front.back.patience ?? .max)
    ThreadTime.sleep(milliseconds: 150)
    #expect(front.back.patience == 0)
    front.back.alarmPatience = 100_000
    front.run()
    #expect(50_000...100_000 ~= front.back.patience ?? 0, "it has been looked at")
    front.back.alarm.raise(.memoryLost)
    front.run()
    #expect(front.outcome == .failure(.memoryLost))
    #expect(front.back.patience == nil)
  }

  @Test("a message has a time to become whole, and bytes that trickle do not add to it")
  func halfAMessage() throws {
    let front = try ScriptedFrontEnd()
    let message = MessageHeader(request: 2, size: 8).bytes + bytes(0)
    #expect(front.back.patience == nil)
    try front.write(message)
    front.run()
    #expect(front.back.patience == nil && front.back.silence == nil)

    front.back.messagePatience = 200
    try front.write([message[0]])
    front.run()
    #expect(front.outcome == nil)
    #expect((front.back.patience ?? .max) <= 200)
    for byte in message[1..<19] where front.outcome == nil {
      ThreadTime.sleep(milliseconds: 30)
      try front.write([byte])
      front.run()
    }
    guard case .failure(.messageTooSlow(_, _, milliseconds: 200)) = front.outcome else {
      Issue.record("\(String(describing: front.outcome))")
      return
    }
    #expect(front.back.hasEnded)
    #expect(front.back.patience == nil)
  }

  @Test("one that says nothing is known to")
  func silence() throws {
    let front = try ScriptedFrontEnd()
    ThreadTime.sleep(milliseconds: 50)
    #expect((front.back.silence ?? 0) >= 30)
    try front.send(3)
    #expect(front.back.silence == nil)
  }

  @Test("requests that take long give others their turn")
  func turns() throws {
    let front = try ScriptedFrontEnd()
    front.back.turn = 0
    let request = MessageHeader(request: 2, size: 8).bytes + bytes(0)
    try front.write(request + request)
    front.run()
    #expect(front.device.takeEvents().isEmpty, "no time, no request")
    front.back.turn = 60_000
    front.run()
    #expect(front.outcome == nil)
  }
}

extension PostcopyTests {
  /// A thread that stores to the first byte of the memory, and waits for its page.
  private func toucher(of front: ScriptedFrontEnd) throws -> PinnedThread {
    let address = Int(front.back.memory.regions[0].addressHere)
    return try PinnedThread(name: "toucher") {
      unsafe UnsafeMutableRawPointer(bitPattern: address)!.storeBytes(of: 1, as: UInt8.self)
    }
  }

  /// - Returns: one whose session has ended already, where a machine holds us up for longer than pages are
  ///   waited for.
  private func arriving(
    _ change: (BackEnd) -> Void = { _ in }
  ) throws -> ScriptedFrontEnd {
    let device = RecordingDevice()
    device.hasPostcopy = true
    let front = try ScriptedFrontEnd(device)
    change(front.back)
    try front.negotiate()
    try front.send(28)
    let answer = try front.acknowledged(29)
    guard front.outcome == nil else { return front }
    #expect(answer == 0)
    let file = try memoryFile(1 << 20)
    try front.send(37, bytes(0) + region(.megabyte), descriptors: [file.raw])
    return front
  }

  // The thread that would notice waits for the one that waits for the page.
  @Test("a front-end that dies lets go who waits for its pages, without the control thread")
  func dies() throws {
    let front = try arriving()
    let thread = try toucher(of: front)
    usleep(10_000)
    front.hangUp()
    thread.join()
    front.run()
    #expect(front.back.hasEnded)
  }

  @Test("pages that keep the control thread since before there were any end the session")
  func keptThread() throws {
    for patience in [200, 2000, 10_000] as [UInt64] {
      let front = try arriving {
        $0.pagePatience = patience
        $0.controlThread(isBusy: true)
      }
      if front.back.memory.regions.isEmpty { continue }
      let thread = try toucher(of: front)
      thread.join()
      // The alarm comes after the pages.
      for _ in 0..<30_000 where front.back.alarm.reasons == [] { usleep(1000) }
      front.run()
      #expect(front.outcome == .failure(.pagesMissing))
      return
    }
    Issue.record("no memory was shared in time")
  }

  @Test("pages that do not come are given up when workers do not answer, and the session ends")
  func workersDoNotAnswer() throws {
    let front = try arriving()
    let thread = try toucher(of: front)
    usleep(10_000)
    front.back.workersDoNotAnswer()
    thread.join()
    front.run()
    #expect(front.outcome == .failure(.pagesMissing))
  }
}
