import Glibc
import GuestMemory
import Linux
import Testing
import Virtqueue

@testable import VhostUser

@Suite("Sessions")
struct SessionTests {
  @Test("a message that comes byte by byte is carried out once it is whole")
  func bytewise() throws {
    let front = try ScriptedFrontEnd()
    let message =
      MessageHeader(request: 2, size: 8).bytes + bytes(VirtioFeatures.version1.rawValue)
    for byte in message {
      #expect(front.device.takeEvents() == [])
      try front.write([byte])
      front.run()
    }
    #expect(front.device.takeEvents() == [.negotiate([.version1])])
    #expect(front.outcome == nil)
  }

  @Test("messages that come together are carried out in order")
  func together() throws {
    let front = try ScriptedFrontEnd()
    let one = MessageHeader(request: 2, size: 8).bytes
    try front.write(
      one + bytes(VirtioFeatures.version1.rawValue) + one
        + bytes(VirtioFeatures.anyLayout.rawValue) + MessageHeader(request: 17, size: 0).bytes)
    front.run()
    #expect(front.device.takeEvents() == [.negotiate([.version1]), .negotiate([.anyLayout])])
    #expect(try front.readReply()?.payload == bytes(2))
  }

  @Test("descriptors stay with the message whose first byte they came with")
  func descriptorsInPieces() throws {
    let front = try ScriptedFrontEnd()
    let event = try EventDescriptor()
    let message = MessageHeader(request: 13, size: 8).bytes + bytes(1)
    try front.write(Array(message[..<5]), descriptors: [event.raw])
    front.run()
    try front.write(Array(message[5...]))
    try front.write(MessageHeader(request: 13, size: 8).bytes + bytes(0x100))
    front.run()
    #expect(front.back.rings[1].call != nil)
    #expect(front.back.rings[0].call == nil)
    #expect(front.warnings == [])
  }

  @Test("the device is told once that a front-end has left, however it went, and of no reset")
  func departure() throws {
    let front = try ScriptedFrontEnd()
    try front.write(MessageHeader(request: 34, size: 0).bytes)  // RESET_DEVICE
    front.run()
    #expect(front.device.departures == 0)
    front.hangUp()
    front.run()
    front.back.end()
    #expect(front.device.departures == 1)
    let rude = try ScriptedFrontEnd()
    try rude.write([1, 2, 3])
    rude.hangUp()
    rude.run()
    #expect(rude.device.departures == 1)
  }

  @Test("a front-end that leaves between messages closes, inside one it fails")
  func leaving() throws {
    let polite = try ScriptedFrontEnd()
    polite.hangUp()
    polite.run()
    #expect(polite.outcome == .success(.closed))
    #expect(polite.back.hasEnded)

    let rude = try ScriptedFrontEnd()
    try rude.write(Array(MessageHeader(request: 2, size: 8).bytes + [1]))
    rude.hangUp()
    rude.run()
    #expect(rude.outcome == .failure(.endedInsideMessage(received: 13, expected: 20)))
    #expect(rude.back.hasEnded)
  }

  @Test(
    "a stream that cannot be trusted ends the session",
    arguments: [
      MessageHeader(request: 1, flags: 0, size: 0), MessageHeader(request: 1, flags: 5, size: 0),
      MessageHeader(request: 1, flags: 1, size: .max),
    ])
  func untrusted(header: MessageHeader) throws {
    let front = try ScriptedFrontEnd()
    try front.write(header.bytes)
    front.run()
    guard case .failure(let error) = front.outcome else {
      Issue.record("it lives")
      return
    }
    #expect(error.endsConnection)
    #expect(front.back.hasEnded)
  }

  @Test("descriptors that come in more pieces than a message may have end the session")
  func tooManyDescriptors() throws {
    let front = try ScriptedFrontEnd()
    let pipe = try Pipe()
    let five = [CInt](repeating: pipe.writeEnd!.raw, count: 5)
    let header = MessageHeader(request: 5, size: 8).bytes
    try front.write(Array(header[..<4]), descriptors: five)
    try front.write(Array(header[4...]), descriptors: five)
    front.run()
    #expect(front.outcome == .failure(.tooManyDescriptors(limit: 8)))
    pipe.writeEnd = nil
    #expect(pipe.isClosed)
  }

  @Test("a front-end that does not read its replies is given up")
  func repliesNotRead() throws {
    let front = try ScriptedFrontEnd()
    let request = MessageHeader(request: 1, size: 0).bytes
    for _ in 0..<20_000 where front.outcome == nil {
      try front.write(request)
      front.run()
    }
    #expect(front.outcome == .failure(.repliesNotRead(request: "GET_FEATURES")))
  }

  @Test("a flood of requests is carried out in turns")
  func turns() throws {
    let front = try ScriptedFrontEnd()
    let request = MessageHeader(request: 2, size: 8).bytes
    let both = [VirtioFeatures.version1, .anyLayout].map { request + bytes($0.rawValue) }
    try front.write((0..<100).flatMap { both[$0 % 2] })
    front.back.turn = 60_000
    front.run()
    #expect(front.device.takeEvents().count == 64)
    front.run()
    #expect(front.device.takeEvents().count == 36)
  }

  @Test("the end stops the rings, then releases memory and descriptors")
  func end() throws {
    let front = try ScriptedFrontEnd()
    try front.negotiate()
    try front.shareMemory()
    for ring in 0...3 { try front.setUp(ring) }
    let event = try EventDescriptor()
    try front.send(14, bytes(2), descriptors: [event.raw])
    let pipe = try Pipe()
    try front.send(21, descriptors: [pipe.writeEnd!.raw])
    pipe.writeEnd = nil
    #expect(pipe.isOpen)
    _ = front.device.takeEvents()
    weak let memory = front.back.memory
    weak let call = front.back.rings[2].call
    weak let error = front.back.rings[2].error
    #expect(call != nil && error != nil)

    front.hangUp()
    front.run()
    #expect(
      front.device.takeEvents() == [.stop(0), .stop(1), .stop(2), .stop(3), .negotiate([])])
    #expect(pipe.isClosed)
    #expect(memory == nil && call == nil && error == nil)
    #expect(front.back.descriptor == nil)
    front.back.end()
    #expect(front.device.takeEvents() == [], "ended once")
  }

  @Test("descriptors of refused messages are closed")
  func refusedDescriptors() throws {
    let front = try ScriptedFrontEnd()
    let pipe = try Pipe()
    let raw = pipe.writeEnd!.raw
    try front.send(77, [1, 2], descriptors: [raw, raw])
    try front.send(2, bytes(0), descriptors: [raw])
    try front.send(12, bytes(200), descriptors: [raw])
    try front.send(12, bytes(0), descriptors: [raw, raw])
    try front.send(6, bytes(0, 0), descriptors: [raw])
    try front.send(5, table([.megabyte]), descriptors: [raw])
    try front.send(37, bytes(0) + region(.megabyte), descriptors: [raw])
    pipe.writeEnd = nil
    #expect(pipe.isClosed)
    #expect(!front.back.hasEnded)
  }

  // In a process of its own, since other tests open descriptors at the same time.  The runtime may
  // open a few there too; what sessions leave would be at least one of every second one.
  @Test("forty sessions leave the descriptors open that were open before")
  func descriptorCount() async {
    await #expect(processExitsWith: .success) {
      func openDescriptors() -> Int {
        (0..<1024).count { fcntl($0, F_GETFD) >= 0 }
      }
      let before = openDescriptors()
      for i in 0..<40 {
        let front = try ScriptedFrontEnd()
        try front.negotiate()
        try front.shareMemory()
        for ring in 0...3 { try front.setUp(ring) }
        let file = try memoryFile(1 << 20)
        try front.send(37, bytes(0) + region(.secondMegabyte), descriptors: [file.raw])
        try front.send(21, descriptors: [file.raw])
        try front.send(77, descriptors: [file.raw])
        guard openDescriptors() > before else { exit(2) }
        if i % 2 == 0 { try front.write([1, 2, 3], descriptors: [file.raw]) }
        front.hangUp()
        front.run()
      }
      guard openDescriptors() < before + 10 else { exit(3) }
    }
  }
}
