// What the front-end puts on the wire, byte for byte.
import GuestDriver
import GuestMemory
import Linux
import Testing
import Virtqueue

@Suite("The front-end")
struct FrontEndTests {
  @Test("a message is request, flags, size and payload, with its descriptors beside it")
  func wire() throws {
    let ram = try GuestRAM([(0, 4096), (8192, 4096)])
    let (frontEnd, raw) = try FrontEnd.pair()
    let other = try FrontEndSocket(adopting: OwnedDescriptor(adopting: raw))
    try frontEnd.setMemory(ram)
    let message = try other.receive()
    #expect(message.request == 5)
    #expect(message.flags == 1)
    #expect(message.payload.count == 8 + 2 * 32)
    #expect(message.integer(at: 0, as: UInt32.self) == 2)
    #expect(message.integer(at: 40, as: UInt64.self) == 8192)
    #expect(message.integer(at: 48, as: UInt64.self) == 4096)
    #expect(message.integer(at: 56, as: UInt64.self) == ram.descriptions[1].frontEnd.value)
    #expect(message.integer(at: 64, as: UInt64.self) == 4096)
    #expect(message.descriptors.count == 2)
    for descriptor in message.descriptors { _ = OwnedDescriptor(adopting: descriptor) }
    try frontEnd.setDescriptor(.setVringCall, 3, nil)
    let call = try other.receive()
    #expect(call.request == 13)
    #expect(call.payload == [3, 1, 0, 0, 0, 0, 0, 0])
    #expect(call.descriptors.isEmpty)
  }

  /// A back-end that answers as told, for one message each.
  private func answering(
    _ answers: [UInt64?], to abilities: FrontEnd.Abilities = .init(),
    _ body: (FrontEnd) throws -> Void
  ) throws -> [FrontEndMessage] {
    let (frontEnd, raw) = try FrontEnd.pair(abilities)
    let reply = try Reply<[FrontEndMessage]>()
    let thread = try PinnedThread(name: "back-end") {
      guard let socket = try? FrontEndSocket(adopting: OwnedDescriptor(adopting: raw)) else {
        return reply.fulfil([])
      }
      var seen: [FrontEndMessage] = []
      for answer in answers {
        guard let message = try? socket.receive() else { break }
        seen.append(message)
        guard let answer else { continue }
        try? socket.send(
          message.request, (0..<8).map { UInt8(truncatingIfNeeded: answer >> ($0 * 8)) }, flags: 5)
      }
      reply.fulfil(seen)
    }
    try body(frontEnd)
    let seen = reply.wait()
    thread.join()
    return seen
  }

  @Test("negotiation takes what both sides know, and REPLY_ACK counts from the next message")
  func negotiate() throws {
    let offered = VirtioFeatures.protocolFeatures.rawValue | VirtioFeatures.version1.rawValue
    // MQ, REPLY_ACK, CONFIG: the last is none of the front-end's.
    let seen = try answering([offered, 0b10_0000_1001, nil, 0, 0]) { frontEnd in
      try frontEnd.negotiate()
      #expect(frontEnd.protocolFeatures == [.multiqueue, .replyAck])
      #expect(frontEnd.features == [.version1, .protocolFeatures])
    }
    #expect(seen.map(\.request) == [1, 15, 16, 3, 2])
    #expect(seen.map(\.flags) == [1, 1, 1, 9, 9])
    #expect(seen[2].integer(at: 0, as: UInt64.self) == 0b1001)
    #expect(seen[4].integer(at: 0, as: UInt64.self) == offered)
  }

  @Test("without bit 30 there are no protocol features and no acknowledgements")
  func withoutBit30() throws {
    var abilities = FrontEnd.Abilities()
    abilities.protocolFeaturesBit = false
    let offered = VirtioFeatures.protocolFeatures.rawValue | VirtioFeatures.version1.rawValue
    let seen = try answering([offered, nil, nil], to: abilities) { frontEnd in
      try frontEnd.negotiate()
      #expect(frontEnd.features == .version1)
    }
    #expect(seen.map(\.request) == [1, 3, 2])
    #expect(seen[2].integer(at: 0, as: UInt64.self) == VirtioFeatures.version1.rawValue)
  }

  @Test("a refusal, a wrong reply and a closed connection are errors")
  func errors() throws {
    let offered = VirtioFeatures.protocolFeatures.rawValue
    _ = try answering([offered, 8, nil, 0, 0, 1]) { frontEnd in
      try frontEnd.negotiate()
      #expect(throws: FrontEndError.refused(.setVringEnable, code: 1)) {
        try frontEnd.enable(0)
      }
      #expect(throws: FrontEndError.closed) { try frontEnd.synchronize() }
    }
    _ = try answering([7]) { frontEnd in
      #expect(throws: FrontEndError.badReply(request: 11, flags: 5, size: 8)) {
        _ = try frontEnd.vringBase(0)
      }
    }
  }
}
