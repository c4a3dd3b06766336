import Packet
import Testing

@testable import HostPort

@Suite struct SyntheticPortTests {
  @Test("null: takes every frame, gives nothing, and never runs out")
  func null() throws {
    let queue = try NullPort().openQueue(3)
    #expect(queue.index == 3 && queue.descriptor == nil && !queue.isAlwaysReadable)
    for _ in 0..<100 { #expect(queue.send((0..<50).map { frame(number: $0) }) == 50) }
    #expect(queue.statistics["dropped_frames"] == 5000)
    #expect(queue.statistics["dropped_bytes"] == 300_000)
    let batch = FrameBatch()
    queue.receive(into: batch)
    #expect(batch.count == 0)
    #expect(queue.freeTransmitFrames(expecting: 512) == 512)
  }

  @Test(
    "reflect: gives back what was transmitted, in order and unchanged",
    arguments: [60, 64, 1514, 9014])
  func reflect(size: Int) throws {
    let port = ReflectPort()
    #expect(port.name == "reflect:" && port.capabilities.frameSize >= size)
    let queue = try port.openQueue(2)
    #expect(queue.index == 2 && queue.descriptor == nil && !queue.isAlwaysReadable)
    #expect(!queue.hasFramesWaiting)
    // More than there are frames, in bursts that wrap around the line at every place.
    for round in 0..<40 {
      let sent = (0..<37).map { frame(size: size, number: 100 * round + $0) }
      #expect(queue.send(sent) == 37)
      #expect(queue.hasFramesWaiting)
      #expect(queue.collect(37) == sent)
      #expect(!queue.hasFramesWaiting)
    }
    #expect(queue.statistics["reflected_frames"] == 1480)
    #expect(queue.statistics["reflected_bytes"] == UInt64(1480 * size))
    #expect(queue.statistics["dropped_frames"] == 0)
  }

  @Test("each queue of reflect: gives back its own frames")
  func reflectQueues() throws {
    let port = ReflectPort(queueCount: 2)
    let queues = [try port.openQueue(0), try port.openQueue(1)]
    for i in 0..<2 { queues[i].send([frame(number: i)]) }
    for i in 0..<2 { #expect(queues[i].collect(2, milliseconds: 5) == [frame(number: i)]) }
  }

  @Test("what finds no room in reflect: is dropped and counted, and the transmit budget stays")
  func reflectRoom() throws {
    let queue = try ReflectPort().openQueue(0)
    let sent = (0..<600).map { frame(number: $0) }
    #expect(queue.send(sent) == 600)
    #expect(queue.statistics["reflected_frames"] == 512)
    #expect(queue.statistics["dropped_frames"] == 88)
    #expect(queue.statistics["dropped_bytes"] == 88 * 60)
    #expect(queue.freeTransmitFrames(expecting: 512) == 512)
    // Frames in the hands of a receiver count too.
    let kept = FrameBatch(capacity: 200)
    queue.receive(into: kept)
    #expect(kept.count == 200)
    queue.send([frame(number: 600)])
    #expect(queue.statistics["dropped_frames"] == 89)
    queue.recycle(kept)
    queue.send([frame(number: 601)])
    #expect(queue.statistics["dropped_frames"] == 89)
    #expect(queue.collect(313) == Array(sent[200..<512]) + [frame(number: 601)])
    #expect(queue.freeTransmitFrames(expecting: 1024) == 1024)
  }

  @Test("frames that were reserved and not sent are not reflected")
  func reflectUnsent() throws {
    let queue = try ReflectPort().openQueue(0)
    let batch = FrameBatch()
    queue.reserve(8, into: batch)
    let first = frame(number: 1)
    #expect(batch.write(first, at: 0) == 1)
    queue.transmit(batch, count: 1)
    #expect(queue.collect(2, milliseconds: 5) == [first])
    #expect(queue.freeTransmitFrames(expecting: 1024) == 1024)
  }

  @Test(
    "generated frames are valid UDP of the asked size, in sequence",
    arguments: [60, 64, 1514, 9014])
  func generate(size: Int) throws {
    let port = try GeneratePort(size: size)
    #expect(port.name == "generate:\(size)")
    #expect(port.capabilities.frameSize >= size)
    let queue = try port.openQueue(0)
    #expect(queue.isAlwaysReadable)
    let frames = queue.collect(3000).prefix(3000)
    #expect(frames.count == 3000)
    for (number, frame) in frames.enumerated() {
      #expect(frame.count == size)
      var sum = 0
      for i in stride(from: 14, to: 34, by: 2) { sum += Int(frame[i]) << 8 | Int(frame[i + 1]) }
      while sum > 0xffff { sum = sum & 0xffff + sum >> 16 }
      #expect(sum == 0xffff)
      #expect(Int(frame[16]) << 8 | Int(frame[17]) == size - 14)
      #expect(Int(frame[38]) << 8 | Int(frame[39]) == size - 34)
      #expect(frame[42..<50].reduce(0) { $0 << 8 | Int($1) } == number)
    }
  }

  @Test("a receiver that keeps everything stops the source at its budget")
  func sourceBudget() throws {
    let address = try #require(MACAddress("02:11:22:33:44:55"))
    let queue = try GeneratePort(size: 60, destination: address).openQueue(0)
    let kept = FrameBatch(capacity: 5000)
    queue.receive(into: kept)
    #expect(kept.count == 256)
    queue.receive(into: kept)
    #expect(kept.count == 256)
    queue.recycle(kept)
    #expect(queue.collect(1).first?.prefix(6) == [2, 0x11, 0x22, 0x33, 0x44, 0x55])
  }

  @Test("sizes that are no Ethernet frame are refused with the range", arguments: [0, 59, 9015])
  func sizes(size: Int) {
    #expect(throws: PortError("generate:\(size): a frame has 60 to 9014 bytes")) {
      try GeneratePort(size: size)
    }
  }
}
