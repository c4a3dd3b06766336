// Chains of commands: what the driver wrote, and behind it room for the answer.
import GuestDriver
import GuestMemory
import Testing
import Virtqueue

@Suite("Commands")
final class CommandTests {
  private let buffers = CommandBuffers(capacity: 64)

  private func buffer(_ rig: Rig, _ count: Int, writable: Bool = false) -> DriverQueue.Buffer {
    let address = rig.ram.allocate(max(count, 1))
    rig.ram.write(pattern(count), at: address)
    return DriverQueue.Buffer(address, UInt32(count), writable: writable)
  }

  /// Collects the next chain and returns it.
  private func take(_ rig: Rig, _ body: () -> Void = {}) -> ChainOutcome {
    var position = rig.device.position
    let outcome = rig.device.collect(at: &position, into: buffers)
    switch outcome {
    case .chain(let chain):
      body()
      rig.device.push(chain, length: 1)
    case .malformed(let chain, _): rig.device.push(chain, length: 0)
    case .none: break
    }
    rig.device.take(to: position)
    rig.device.publish()
    return outcome
  }

  @Test(
    "a command and its answer are taken apart, however the chain is cut",
    arguments: Rig.formats, [0, 1, 4])
  func apart(features: VirtioFeatures, direct: Int) throws {
    // A packed chain is all direct or all in a table.
    if features.contains(.ringPacked), direct == 1 { return }
    let rig = try Rig(features: features)
    for sizes in [[9], [1, 1, 7], [2, 7], [0, 9], [9, 0]] {
      let answer = rig.ram.allocate(2)
      rig.ram.write([9, 9], at: answer)
      let command = sizes.map { buffer(rig, $0) }
      rig.ring.add(command + [DriverQueue.Buffer(answer, 2, writable: true)], direct: direct)
      rig.ring.publish()
      let outcome = take(rig) {
        #expect(buffers.commandSize == 9)
        #expect(buffers.answerSize == 2)
        let bytes = buffers.command(limit: 100)
        #expect(bytes == sizes.flatMap { pattern($0) })
        #expect(buffers.command(limit: 3) == Array(bytes.prefix(3)))
        buffers.answer(5)
      }
      guard case .chain = outcome else {
        Issue.record("\(outcome)")
        return
      }
      #expect(rig.ram.read(answer, count: 2) == [5, 9])
      #expect(try rig.ring.nextUsed()?.length == 1)
    }
  }

  @Test("a command may have no answer, or nothing but one", arguments: Rig.formats)
  func oneSided(features: VirtioFeatures) throws {
    let rig = try Rig(features: features)
    rig.ring.add([buffer(rig, 3)])
    rig.ring.add([buffer(rig, 4, writable: true)])
    rig.ring.publish()
    _ = take(rig) {
      #expect(buffers.commandSize == 3)
      #expect(buffers.answerSize == 0)
    }
    _ = take(rig) {
      #expect(buffers.commandSize == 0)
      #expect(buffers.command(limit: 8) == [])
      #expect(buffers.answerSize == 4)
      buffers.answer(7)
    }
  }

  @Test(
    "a buffer of the driver's behind one of the device's is malformed",
    arguments: Rig.formats, [0, 3])
  func turnsBack(features: VirtioFeatures, direct: Int) throws {
    let rig = try Rig(features: features)
    rig.ring.add(
      [buffer(rig, 3), buffer(rig, 1, writable: true), buffer(rig, 1)], direct: direct)
    rig.ring.publish()
    guard case .malformed(_, .wrongDirection) = take(rig) else {
      Issue.record("taken")
      return
    }
    // And packets have buffers of one kind only, as ever; but see PackedChain.swift on tables.
    if features.contains(.ringPacked), direct == 0 { return }
    rig.ring.add([buffer(rig, 3), buffer(rig, 1, writable: true)], direct: direct)
    rig.ring.publish()
    guard case .malformed(_, .wrongDirection) = rig.look() else {
      Issue.record("taken for a packet")
      return
    }
  }
}
