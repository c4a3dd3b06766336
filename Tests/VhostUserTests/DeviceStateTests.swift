import Glibc
import Linux
import Testing
import Virtqueue

@testable import VhostUser

@Suite("Device state")
struct DeviceStateTests {
  /// Two ends of a channel, both close-on-exec at once, as those of pipe(2) are not.
  private final class Channel {
    var ours: EventDescriptor?
    var theirs: EventDescriptor?

    /// - Parameter weWrite: else they do.
    init(weWrite: Bool) throws {
      let path = "/tmp/vhost-user-xdp-state-\(getpid())-\(UInt64.random(in: 0...UInt64.max))"
      try checkedCall { unsafe mkfifo(path, 0o600) }
      defer { _ = unsafe unlink(path) }
      // Who reads comes first, and does not wait for the other.
      let from = OwnedDescriptor(
        adopting: try checkedCall { unsafe open(path, O_RDONLY | O_NONBLOCK | O_CLOEXEC) })
      let to = OwnedDescriptor(
        adopting: try checkedCall { unsafe open(path, O_WRONLY | O_CLOEXEC) })
      if weWrite {
        ours = EventDescriptor(adopting: to)
        theirs = EventDescriptor(adopting: from)
      } else {
        ours = EventDescriptor(adopting: from)
        theirs = EventDescriptor(adopting: to)
      }
    }

    func readAll() -> [UInt8] {
      var bytes = [UInt8](repeating: 0, count: 65536)
      var count = 0
      while true {
        let more = unsafe bytes.withUnsafeMutableBytes {
          unsafe read(ours!.raw, $0.baseAddress! + count, 65536 - count)
        }
        guard more > 0 else { return Array(bytes[..<count]) }
        count += more
      }
    }

    func write(_ bytes: [UInt8]) { _ = unsafe Glibc.write(ours!.raw, bytes, bytes.count) }

    /// Lets go of both ends, ours first, and returns when nobody writes any more: a child that another test
    /// starts at this moment holds our descriptors until it runs.
    func finish() {
      ours = nil
      var poller = pollfd(fd: theirs!.raw, events: 0, revents: 0)
      while unsafe poll(&poller, 1, 30_000) < 0 && errno == EINTR {}
      theirs = nil
    }
  }

  private func save(_ front: ScriptedFrontEnd) throws -> [UInt8] {
    let channel = try Channel(weWrite: false)
    #expect(try front.send(42, bytes(0), descriptors: [channel.theirs!.raw]) == bytes(0x100))
    channel.theirs = nil
    let state = channel.readAll()
    #expect(try front.send(43) == bytes(0))
    return state
  }

  private func load(_ state: [UInt8], into front: ScriptedFrontEnd) throws -> [UInt8]? {
    let channel = try Channel(weWrite: true)
    #expect(try front.send(42, bytes(1), descriptors: [channel.theirs!.raw]) == bytes(0x100))
    channel.write(state)
    channel.finish()
    return try front.send(43)
  }

  @Test("a state goes to another host and is taken over there")
  func transfer() throws {
    let old = try ScriptedFrontEnd()
    try old.negotiate()
    old.device.state = [1, 2, 3]
    let state = try save(old)
    let new = try ScriptedFrontEnd()
    try new.negotiate(protocol: .deviceState)
    #expect(try load(state, into: new) == bytes(0))
    #expect(new.device.state == [1, 2, 3])
  }

  @Test("what was taken over outlives the negotiation that follows")
  func kept() throws {
    let front = try ScriptedFrontEnd()
    try front.negotiate()
    let state = DeviceState(queuePairs: 2, features: [.version1], device: [9]).bytes
    #expect(try load(state, into: front) == bytes(0))
    let before = front.device.beginnings
    try front.negotiate()
    #expect(front.device.beginnings == before)
    try front.shareMemory()
    try front.setUp(0)
    try front.send(11, VhostUserTests.state(0, 0))
    try front.negotiate([.version1])
    #expect(front.device.beginnings == before + 1, "another driver")
  }

  @Test("a state of another device, version, size or sum is refused, and each says why")
  func refused() throws {
    let front = try ScriptedFrontEnd()
    try front.negotiate()
    func reason(_ state: [UInt8]) throws -> String {
      #expect(try load(state, into: front) == bytes(1))
      return front.warnings.last ?? ""
    }
    let good = DeviceState(queuePairs: 1, features: [], device: [1, 2, 3]).bytes
    #expect(try reason([]).contains("not the state"))
    #expect(try reason(Array(good.dropLast())).contains("cut off or damaged"))
    #expect(try reason(good + [0]).contains("cut off or damaged"))
    var damaged = good
    damaged[30] ^= 1
    #expect(try reason(damaged).contains("cut off or damaged"))
    #expect(
      try reason([UInt8](repeating: 1, count: DeviceState.maximumSize + 1)).contains("more than"))
    #expect(
      try reason(DeviceState(queuePairs: 3, features: [], device: []).bytes)
        .contains("--queues=3"))
    #expect(
      try reason(DeviceState(queuePairs: 1, features: [.csum], device: []).bytes)
        .contains("CSUM"))
    front.device.refusesState = true
    #expect(try reason(good).contains("as the test wants"))
  }

  @Test("a front-end that has not closed the channel does not hold anything up")
  func unfinished() throws {
    let front = try ScriptedFrontEnd()
    try front.negotiate()
    let channel = try Channel(weWrite: true)
    #expect(try front.send(42, bytes(1), descriptors: [channel.theirs!.raw]) == bytes(0x100))
    #expect(try front.send(43) == bytes(1))
    #expect(front.warnings.last!.contains("has not closed it"))
    #expect(try front.send(43) == bytes(1), "no transfer was begun")
  }

  @Test("a state is not taken over by rings that were started meanwhile")
  func startedMeanwhile() throws {
    let old = try ScriptedFrontEnd()
    try old.negotiate()
    old.device.state = [1, 2, 3]
    let state = try save(old)

    let front = try ScriptedFrontEnd()
    try front.negotiate()
    try front.shareMemory()
    let channel = try Channel(weWrite: true)
    #expect(try front.send(42, bytes(1), descriptors: [channel.theirs!.raw]) == bytes(0x100))
    channel.write(state)
    channel.finish()
    try front.setUp(0)
    #expect(try front.send(43) == bytes(1))
    #expect(front.warnings.last!.contains("rings must be stopped"))
    #expect(front.device.state == [])
    #expect(try front.send(43) == bytes(1))
    #expect(front.warnings.last!.contains("no transfer was begun"))
  }

  @Test("a full channel does not hold anything up")
  func full() throws {
    let front = try ScriptedFrontEnd()
    try front.negotiate()
    let channel = try Channel(weWrite: false)
    let raw = channel.theirs!.raw
    _ = fcntl(raw, F_SETFL, O_NONBLOCK)
    let junk = [UInt8](repeating: 0, count: 65536)
    while unsafe write(raw, junk, junk.count) > 0 {}
    #expect(try front.send(42, bytes(0), descriptors: [raw]) == bytes(0x100))
    #expect(try front.send(43) == bytes(1))
    #expect(front.warnings.last!.contains("no room"))
  }

  @Test("a transfer needs stopped rings, a descriptor, and a direction and phase that exist")
  func conditions() throws {
    let front = try ScriptedFrontEnd()
    try front.negotiate()
    let channel = try Channel(weWrite: false)
    let raw = channel.theirs!.raw
    #expect(try front.send(42, bytes(0)) == bytes(0x101))
    #expect(try front.send(42, bytes(2), descriptors: [raw]) == bytes(0x101))
    #expect(try front.send(42, bytes(1 << 32), descriptors: [raw]) == bytes(0x101))
    try front.shareMemory()
    try front.setUp(0)
    #expect(try front.send(42, bytes(0), descriptors: [raw]) == bytes(0x101))
    #expect(front.warnings.last!.contains("rings must be stopped"))
  }

  @Test("bytes of any kind are a state or an error")
  func total() {
    let good = DeviceState(queuePairs: 1, features: [.version1], device: [1, 2]).bytes
    for length in 0..<good.count {
      #expect(throws: DeviceStateError.self) { try DeviceState(Array(good[..<length])) }
    }
    for i in good.indices {
      var other = good
      other[i] ^= 0x40
      #expect(throws: DeviceStateError.self) { try DeviceState(other) }
    }
  }
}
