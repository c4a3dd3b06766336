import CLinux
import Glibc
import Linux
import Testing
import Virtqueue

@testable import VhostUser

@Suite("In-band notifications")
struct InbandTests {
  private static let wanted: ProtocolFeatures = [.replyAck, .backendReq, .inbandNotifications]

  /// The front-end's end of the channel.
  private struct Channel: ~Copyable {
    let socket: UnixSocket

    /// All requests that wait: number, ring and whether a reply is wanted.
    func read() throws -> [[UInt32]] {
      var buffer = [UInt8](repeating: 0, count: 4096)
      var none = ReceivedDescriptors()
      guard
        case .bytes(let count) = try socket.receive(
          into: &buffer, at: 0..<buffer.count, descriptors: &none)
      else { return [] }
      return stride(from: 0, to: count, by: 20).map { start in
        var reader = PayloadReader(buffer[start..<start + 20])
        let (request, flags, size) = (reader.next32(), reader.next32(), reader.next32())
        #expect(size == 8)
        return [request, reader.next32(), flags & MessageHeader.needReplyFlag]
      }
    }

    func reply(to request: UInt32) {
      let header = MessageHeader(
        request: request, flags: MessageHeader.version | MessageHeader.replyFlag, size: 8)
      #expect(socket.send(header.bytes + bytes(0)) == .done(20))
    }
  }

  private func start() throws -> (ScriptedFrontEnd, Int32) {
    let front = try ScriptedFrontEnd()
    try front.negotiate(protocol: Self.wanted)
    try front.shareMemory()
    var pair: [CInt] = [-1, -1]
    try checkedCall {
      unsafe socketpair(AF_UNIX, CInt(SOCK_STREAM.rawValue | SOCK_CLOEXEC.rawValue), 0, &pair)
    }
    let other = OwnedDescriptor(adopting: pair[1])
    #expect(try front.acknowledged(21, descriptors: [other.raw]) == 0)
    for ring in 0..<2 {
      try front.send(8, state(ring, 256))
      try front.send(9, addresses(ring))
      try front.send(18, state(ring, 1))
    }
    return (front, pair[0])
  }

  @Test("in-band notifications without their channel or without REPLY_ACK end the connection")
  func alone() throws {
    for other in [[], .replyAck, .backendReq] as [ProtocolFeatures] {
      let front = try ScriptedFrontEnd()
      try front.send(16, bytes(other.union(.inbandNotifications).rawValue))
      #expect(front.outcome == .failure(.inbandAlone))
    }
  }

  @Test("VRING_KICK starts a ring and kicks it")
  func kick() throws {
    let (front, raw) = try start()
    let channel = Channel(socket: UnixSocket(adopting: OwnedDescriptor(adopting: raw)))
    #expect(front.device.running[1] == nil)
    #expect(try front.acknowledged(35, state(1, 0)) == 0)
    let kick = try #require(front.device.running[1]?.kick)
    #expect(kick.drain())
    #expect(try front.acknowledged(35, state(1, 0)) == 0)
    #expect(kick.drain() && !kick.drain())
    #expect(try front.acknowledged(35, state(1, 7)) == 1)
    #expect(try front.acknowledged(35, state(9, 0)) == 1)

    // A descriptor is preferred.
    let own = try EventDescriptor()
    try front.send(12, bytes(1), descriptors: [own.raw])
    #expect(try front.acknowledged(35, state(1, 0)) == 0)
    #expect(!kick.drain() && own.drain())
    _ = try channel.read()
  }

  @Test("calls and errors are requests over the channel, each after the reply to the one before")
  func calls() throws {
    let (front, raw) = try start()
    let channel = Channel(socket: UnixSocket(adopting: OwnedDescriptor(adopting: raw)))
    try front.send(35, state(0, 0))
    try front.send(35, state(1, 0))
    front.run()
    // The call that every ring begins with.
    #expect(try channel.read() == [[4, 0, 8]])
    channel.reply(to: 4)
    front.run()
    #expect(try channel.read() == [[4, 1, 8]])
    front.device.running[1]?.error?.signal()
    front.run()
    #expect(try channel.read() == [])
    channel.reply(to: 4)
    front.run()
    #expect(try channel.read() == [[5, 1, 8]])
    channel.reply(to: 5)
    front.run()
    #expect(try channel.read() == [])
  }

  @Test("a front-end that does not read its channel stops nobody, and misses no call")
  func unread() throws {
    let (front, raw) = try start()
    let channel = Channel(socket: UnixSocket(adopting: OwnedDescriptor(adopting: raw)))
    try front.send(35, state(0, 0))
    try front.send(35, state(1, 0))
    for _ in 0..<20_000 {
      front.device.running[0]?.call?.signal()
      front.device.running[1]?.call?.signal()
      front.run()
    }
    #expect(front.outcome == nil)
    #expect(try front.acknowledged(18, state(1, 1)) == 0)
    // One on its way, and one more for each ring.
    var rings: [UInt32] = []
    while let request = try channel.read().first {
      rings.append(request[1])
      channel.reply(to: request[0])
      front.run()
    }
    #expect(rings.count <= 3 && rings.contains(0) && rings.contains(1))
    front.device.running[1]?.call?.signal()
    front.run()
    #expect(try channel.read() == [[4, 1, 8]])
  }

  @Test("descriptors for calls are preferred, and polling is respected")
  func preferred() throws {
    let (front, raw) = try start()
    let channel = Channel(socket: UnixSocket(adopting: OwnedDescriptor(adopting: raw)))
    let call = try EventDescriptor()
    try front.send(13, bytes(0), descriptors: [call.raw])
    try front.send(13, bytes(1 | 1 << 8))
    try front.send(35, state(0, 0))
    try front.send(35, state(1, 0))
    front.run()
    #expect(call.drain())
    #expect(front.device.running[1]?.call == nil)
    #expect(try channel.read() == [])
  }

  @Test("what was not answered over one channel is told again over the next")
  func newChannel() throws {
    let (front, raw) = try start()
    try front.send(35, state(0, 0))
    front.run()
    close(raw)
    var pair: [CInt] = [-1, -1]
    try checkedCall {
      unsafe socketpair(AF_UNIX, CInt(SOCK_STREAM.rawValue | SOCK_CLOEXEC.rawValue), 0, &pair)
    }
    let other = OwnedDescriptor(adopting: pair[1])
    #expect(try front.acknowledged(21, descriptors: [other.raw]) == 0)
    front.run()
    let channel = Channel(socket: UnixSocket(adopting: OwnedDescriptor(adopting: pair[0])))
    #expect(try channel.read() == [[4, 0, 8]])
  }
}
