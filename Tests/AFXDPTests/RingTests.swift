import SharedRing
import Testing

@testable import AFXDP

/// A ring as the kernel maps it, with the kernel's side played by the test.
@safe struct FakeRing: ~Copyable {
  static let size = 8
  let base: UnsafeMutableRawPointer

  init(startingAt index: UInt32) {
    unsafe base = .allocate(byteCount: 256 + FakeRing.size * 16, alignment: 64)
    unsafe base.initializeMemory(as: UInt8.self, repeating: 0, count: 256 + FakeRing.size * 16)
    producer = index
    consumer = index
  }
  deinit { unsafe base.deallocate() }

  var memory: RingMemory {
    unsafe RingMemory(
      producer: base, consumer: base + 64, flags: base + 128, entries: base + 256,
      size: UInt32(FakeRing.size))
  }
  var producer: UInt32 {
    get { unsafe base.acquire32(0) }
    nonmutating set { unsafe base.release32(0, newValue) }
  }
  var consumer: UInt32 {
    get { unsafe base.acquire32(64) }
    nonmutating set { unsafe base.release32(64, newValue) }
  }
  var flags: UInt32 {
    get { unsafe base.acquire32(128) }
    nonmutating set { unsafe base.release32(128, newValue) }
  }
  func word(_ index: UInt32, entrySize: Int, offset: Int = 0) -> UInt64 {
    unsafe base.relaxed64(256 + Int(index % UInt32(FakeRing.size)) * entrySize + offset)
  }
  func setWord(_ index: UInt32, entrySize: Int, offset: Int = 0, _ value: UInt64) {
    unsafe base.storeRelaxed64(
      256 + Int(index % UInt32(FakeRing.size)) * entrySize + offset, value)
  }
}

/// Starting indices: the ordinary one, and some just below the wrap.
private let starts: [UInt32] = [0, 5, .max, .max - 3, .max - 20, 0x7fff_fffc]

@Suite struct ProducerRingTests {
  @Test("what is submitted is what the consumer reads, across the wrap", arguments: starts)
  func order(start: UInt32) {
    let fake = FakeRing(startingAt: start)
    var ring = unsafe ProducerRing(fake.memory)
    var next: UInt64 = 1
    var expected: UInt64 = 1
    for step in 0..<40 {
      let slots = ring.reserve(UInt32(step % 5 + 1))
      for i in 0..<slots.count {
        ring.setAddress(next, at: slots.first &+ i)
        next += 1
      }
      ring.submit()
      while fake.consumer != fake.producer {
        #expect(fake.word(fake.consumer, entrySize: 8) == expected)
        expected += 1
        fake.consumer = fake.consumer &+ 1
      }
    }
    #expect(next == expected && next > 100)
    #expect(ring.pending == 0)
  }

  @Test("a full ring reserves nothing until the consumer moves", arguments: starts)
  func full(start: UInt32) {
    let fake = FakeRing(startingAt: start)
    var ring = unsafe ProducerRing(fake.memory)
    #expect(ring.reserve(6).count == 6)
    #expect(ring.reserve(6) == RingSlots(first: start &+ 6, count: 2))
    #expect(ring.reserve(1).count == 0)
    ring.submit()
    #expect(ring.pending == 8)
    fake.consumer = start &+ 3
    #expect(ring.pending == 5)
    #expect(ring.reserve(100) == RingSlots(first: start &+ 8, count: 3))
    #expect(ring.reserve(1).count == 0)
  }

  @Test("nothing is visible before submit, and cancelled slots never are")
  func cancel() {
    let fake = FakeRing(startingAt: .max)
    var ring = unsafe ProducerRing(fake.memory)
    let slots = ring.reserve(4)
    #expect(fake.producer == .max)
    ring.cancel(3)
    ring.setDescriptor(address: 0x1_0000_0040, length: 60, at: slots.first)
    ring.submit()
    #expect(fake.producer == 0)
    #expect(fake.word(.max, entrySize: 16) == 0x1_0000_0040)
    #expect(fake.word(.max, entrySize: 16, offset: 8) == 60)
    #expect(ring.reserve(8).count == 7)
  }

  @Test("a descriptor says whether its packet goes on, beside the length")
  func continues() {
    let fake = FakeRing(startingAt: 0)
    var ring = unsafe ProducerRing(fake.memory)
    _ = ring.reserve(2)
    ring.setDescriptor(address: 0x1000, length: 0xffff_ffff, continues: true, at: 0)
    ring.setDescriptor(address: 0x2000, length: 0xffff_ffff, at: 1)
    #expect(fake.word(0, entrySize: 16, offset: 8) == 0x1_ffff_ffff)
    #expect(fake.word(1, entrySize: 16, offset: 8) == 0xffff_ffff)
  }

  @Test("a descriptor says whether metadata lies in front of its frame")
  func metadata() {
    let fake = FakeRing(startingAt: 0)
    var ring = unsafe ProducerRing(fake.memory)
    _ = ring.reserve(2)
    ring.setDescriptor(address: 0x1040, length: 60, hasMetadata: true, at: 0)
    ring.setDescriptor(address: 0x2040, length: 60, continues: true, hasMetadata: true, at: 1)
    #expect(fake.word(0, entrySize: 16, offset: 8) == 0x2_0000_003c)
    #expect(fake.word(1, entrySize: 16, offset: 8) == 0x3_0000_003c)
  }

  @Test("the wake-up flag is the kernel's bit 0")
  func wakeUp() {
    let fake = FakeRing(startingAt: 0)
    let ring = unsafe ProducerRing(fake.memory)
    #expect(!ring.needsWakeUp)
    fake.flags = 1
    #expect(ring.needsWakeUp)
    fake.flags = 2
    #expect(!ring.needsWakeUp)
  }
}

@Suite struct ConsumerRingTests {
  @Test("every produced entry is peeked at once and in order, across the wrap", arguments: starts)
  func order(start: UInt32) {
    let fake = FakeRing(startingAt: start)
    var ring = unsafe ConsumerRing(fake.memory)
    var produced: UInt64 = 0
    var consumed: UInt64 = 0
    for step in 0..<60 {
      while produced - consumed < UInt64(step % 9), produced - consumed < 8 {
        fake.setWord(fake.producer, entrySize: 16, produced << 11)
        fake.setWord(fake.producer, entrySize: 16, offset: 8, 60 + produced)
        produced += 1
        fake.producer = fake.producer &+ 1
      }
      let slots = ring.peek(4)
      for i in 0..<slots.count {
        #expect(
          ring.descriptor(at: slots.first &+ i)
            == RingDescriptor(address: consumed << 11, length: UInt32(60 + consumed)))
        consumed += 1
      }
      ring.release()
      #expect(fake.consumer == start &+ UInt32(consumed))
    }
    #expect(consumed > 100)
  }

  @Test("an entry says whether its packet goes on; other options are none of ours")
  func continues() {
    let fake = FakeRing(startingAt: 0)
    var ring = unsafe ConsumerRing(fake.memory)
    for (slot, word) in [0x1_0000_0f00, 0x2_0000_0f00, 0x3_0000_0f00].enumerated() {
      fake.setWord(UInt32(slot), entrySize: 16, offset: 8, UInt64(word))
    }
    fake.producer = 3
    let slots = ring.peek(3)
    let entries = (0..<slots.count).map { ring.descriptor(at: $0) }
    #expect(entries.map(\.continues) == [true, false, true])
    #expect(entries.allSatisfy { $0.length == 0xf00 })
  }

  @Test("cancelled entries come again, and only released slots return to the kernel")
  func cancel() {
    let fake = FakeRing(startingAt: .max - 1)
    var ring = unsafe ConsumerRing(fake.memory)
    #expect(ring.peek(4).count == 0)
    for address: UInt64 in [7, 8, 9] {
      fake.setWord(fake.producer, entrySize: 8, address)
      fake.producer = fake.producer &+ 1
    }
    let slots = ring.peek(8)
    #expect(slots == RingSlots(first: .max - 1, count: 3))
    ring.cancel(2)
    ring.release()
    #expect(fake.consumer == .max)
    let again = ring.peek(8)
    #expect(again == RingSlots(first: .max, count: 2))
    #expect(ring.address(at: again.first) == 8)
    #expect(ring.address(at: again.first &+ 1) == 9)
  }
}
