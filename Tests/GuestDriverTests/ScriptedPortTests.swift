// The accountant is checked, too: a port that overlooks a leak would hide one.
import GuestDriver
import HostPort
import Testing

@Suite("The scripted port")
struct ScriptedPortTests {
  private func port(_ change: (inout ScriptedPort.Options) -> Void = { _ in }) throws
    -> ScriptedPort
  {
    var options = ScriptedPort.Options()
    options.receiveFrames = 4
    options.transmitFrames = 4
    change(&options)
    return try ScriptedPort(options)
  }

  @Test("injected frames are received in order, as far as there are frames for them")
  func receive() throws {
    let queue = try port()[0]
    queue.inject((1...6).map { [UInt8](repeating: UInt8($0), count: $0) })
    let batch = FrameBatch(capacity: 8)
    queue.receive(into: batch)
    #expect(batch.count == 4)
    for i in 0..<4 {
      let frame = unsafe batch[i]
      #expect(unsafe frame.length == UInt32(i + 1))
      #expect(unsafe frame.data.load(as: UInt8.self) == UInt8(i + 1))
    }
    #expect(queue.framesInDataPath == 4)
    #expect(!queue.isComplete)
    queue.recycle(batch)
    #expect(queue.isComplete)
    queue.receive(into: batch)
    #expect(batch.count == 2)
    queue.recycle(batch)
    #expect(queue.waitingCount == 0)
  }

  @Test("sent frames are recorded when they are flushed, at most so many a flush")
  func transmit() throws {
    let queue = try port { $0.framesPerFlush = 2 }[0]
    let batch = FrameBatch(capacity: 8)
    queue.reserve(8, into: batch)
    #expect(batch.count == 4)
    for i in 0..<3 {
      var frame = unsafe batch[i]
      unsafe frame.data.storeBytes(of: UInt8(i), as: UInt8.self)
      unsafe frame.length = 1
      unsafe batch[i] = frame
    }
    queue.transmit(batch, count: 3)
    #expect(batch.count == 0)
    #expect(queue.takeTransmitted().isEmpty)
    #expect(!queue.isComplete)
    #expect(queue.flush())
    #expect(queue.takeTransmitted() == [[0], [1]])
    #expect(!queue.flush())
    #expect(queue.takeTransmitted() == [[2]])
    #expect(queue.isComplete)
  }

  @Test("frames in the kernel are not to be had before they complete")
  func completion() throws {
    let queue = try port { $0.completesAtOnce = false }[0]
    let batch = FrameBatch(capacity: 8)
    queue.reserve(4, into: batch)
    queue.transmit(batch, count: 4)
    _ = queue.flush()
    queue.reserve(4, into: batch)
    #expect(batch.count == 0)
    queue.complete(1)
    queue.reserve(4, into: batch)
    #expect(batch.count == 1)
    queue.transmit(batch, count: 0)
    #expect(queue.isComplete)
  }

  @Test("a frame returned twice, on the wrong side, or too long is a problem")
  func problems() throws {
    let port = try port()
    let queue = port[0]
    queue.inject([[1], [2]])
    let batch = FrameBatch(capacity: 8)
    queue.receive(into: batch)
    let frame = unsafe batch[0]
    queue.recycle(batch)
    #expect(port.problems.isEmpty)
    unsafe batch.append(frame)
    queue.recycle(batch)
    #expect(port.problems.count == 1)
    unsafe batch.append(frame)
    queue.transmit(batch, count: 1)
    #expect(port.problems.count == 2)
    queue.reserve(1, into: batch)
    var long = unsafe batch[0]
    unsafe long.length = 2049
    unsafe batch[0] = long
    queue.transmit(batch, count: 1)
    #expect(port.problems.count == 3)
    #expect(!queue.isComplete)
  }

  @Test("a queue is opened once")
  func open() throws {
    let port = try port()
    _ = try port.openQueue(0)
    #expect(throws: PortError.self) { try port.openQueue(0) }
    #expect(throws: PortError.self) { try port.openQueue(1) }
  }
}
