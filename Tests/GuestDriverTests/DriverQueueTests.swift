// The driver notices what a device may never do.
import GuestDriver
import GuestMemory
import Testing

@Suite("The driver queue")
struct DriverQueueTests {
  private let ram: GuestRAM
  private let queue: DriverQueue

  init() throws {
    ram = try GuestRAM()
    queue = DriverQueue(in: ram, size: 4)
  }

  /// Writes a used element and the index, as a device does.
  private func use(_ id: UInt32, _ length: UInt32, index: UInt16) {
    let slot = queue.usedRing.value + 4 + 8 * UInt64(index % 4)
    let word = UInt64(id) | UInt64(length) << 32
    ram.write((0..<8).map { UInt8(truncatingIfNeeded: word >> ($0 * 8)) }, at: GuestAddress(slot))
    queue.publishedUsedIndex = index &+ 1
  }

  @Test("descriptors are given back with the head, and run out before")
  func descriptors() throws {
    let buffer = DriverQueue.Buffer(ram.allocate(8), 8, writable: true)
    let head = try #require(queue.add([buffer, buffer, buffer]))
    #expect(queue.freeDescriptors == 1)
    #expect(queue.add([buffer, buffer]) == nil)
    // An indirect chain takes one.
    let second = try #require(queue.add([buffer, buffer], direct: 0))
    #expect(queue.freeDescriptors == 0)
    use(UInt32(head), 24, index: 0)
    #expect(try queue.nextUsed() == .init(head: head, length: 24))
    #expect(queue.freeDescriptors == 3)
    use(UInt32(second), 0, index: 1)
    #expect(try queue.allUsed().count == 1)
    #expect(queue.freeDescriptors == 4)
  }

  @Test("a head that the device does not hold is an error")
  func foreignHead() throws {
    queue.add([.init(ram.allocate(8), 8)])
    use(1, 0, index: 0)
    #expect(throws: DriverQueueError.headNotOutstanding(1)) { try queue.nextUsed() }
    use(70000, 0, index: 0)
    #expect(throws: DriverQueueError.headNotOutstanding(70000)) { try queue.nextUsed() }
  }

  @Test("a used index beyond what is outstanding is an error")
  func usedIndex() throws {
    queue.add([.init(ram.allocate(8), 8)])
    queue.publishedUsedIndex = 2
    #expect(throws: DriverQueueError.usedIndexTooFar(2)) { try queue.nextUsed() }
  }

  @Test("more bytes than a chain has writable ones are an error")
  func length() throws {
    queue.add([.init(ram.allocate(8), 8), .init(ram.allocate(8), 8, writable: true)])
    use(0, 9, index: 0)
    #expect(throws: DriverQueueError.lengthBeyondChain(head: 0, length: 9, room: 8)) {
      try queue.nextUsed()
    }
  }
}
