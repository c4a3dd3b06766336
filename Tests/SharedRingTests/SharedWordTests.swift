import SharedRing
import Testing

@Suite("Shared words")
struct SharedWordTests {
  @Test("words are little-endian, at their offset, and touch nothing else")
  func bytes() {
    let raw = UnsafeMutableRawPointer.allocate(byteCount: 64, alignment: 64)
    defer { unsafe raw.deallocate() }
    unsafe raw.initializeMemory(as: UInt8.self, repeating: 0xee, count: 64)
    unsafe raw.release16(2, 0x0102)
    unsafe raw.storeRelaxed16(6, 0x0304)
    unsafe raw.release32(8, 0x0506_0708)
    unsafe raw.storeRelaxed64(16, 0x1112_1314_1516_1718)
    let expected: [UInt8] = [
      0xee, 0xee, 0x02, 0x01, 0xee, 0xee, 0x04, 0x03, 0x08, 0x07, 0x06, 0x05, 0xee, 0xee, 0xee,
      0xee, 0x18, 0x17, 0x16, 0x15, 0x14, 0x13, 0x12, 0x11, 0xee,
    ]
    for (i, byte) in expected.enumerated() {
      #expect(unsafe raw.load(fromByteOffset: i, as: UInt8.self) == byte, "byte \(i)")
    }
    #expect(unsafe raw.acquire16(2) == 0x0102)
    #expect(unsafe raw.relaxed16(6) == 0x0304)
    #expect(unsafe raw.acquire32(8) == 0x0506_0708)
    #expect(unsafe raw.relaxed32(8) == 0x0506_0708)
    #expect(unsafe raw.relaxed64(16) == 0x1112_1314_1516_1718)
  }

  @Test("hot state is changed in place, through a borrowed handle, and destroyed with its owner")
  func hotState() {
    final class Witness {}
    weak var gone: Witness?
    do {
      let state = HotState((count: 1, witness: Witness()))
      gone = state.value.witness
      state.value.count += 41
      #expect(state.value.count == 42)
      #expect(gone != nil)
    }
    #expect(gone == nil)
  }
}
