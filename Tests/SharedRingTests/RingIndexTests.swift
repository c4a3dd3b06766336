import SharedRing
import Testing

@Suite("Ring indices")
struct RingIndexTests {
  @Test("a distance is right across the wrap")
  func distance() {
    #expect(RingIndex(5).distance(from: RingIndex(3)) == 2)
    #expect(RingIndex(3).distance(from: RingIndex(3)) == 0)
    #expect(RingIndex(1).distance(from: RingIndex(65535)) == 2)
    #expect(RingIndex(0).distance(from: RingIndex(1)) == 65535)
  }

  @Test("an index that counts on for ever stays right", arguments: [1, 7, 64, 32768])
  func advance(step: Int) {
    var index = RingIndex(65000)
    var total = 65000
    for _ in 0..<70_000 / step + 3 {
      let old = index
      index.advance(by: step)
      total += step
      #expect(index.distance(from: old) == step)
      #expect(Int(index.value) == total % 65536)
    }
    #expect(index.advanced(by: -step).advanced(by: step) == index)
  }

  @Test("the slot is the index modulo the ring's size", arguments: [1, 2, 256, 32768])
  func slot(size: Int) {
    for value in [0, 1, 255, 256, 257, 32767, 32768, 65535] as [UInt16] {
      #expect(RingIndex(value).slot(mask: UInt16(size - 1)) == Int(value) % size)
    }
  }
}
