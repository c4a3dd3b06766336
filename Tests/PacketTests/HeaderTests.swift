import Packet
import Testing

@Suite("The virtio-net header")
struct HeaderTests {
  private func word(_ bytes: ArraySlice<UInt8>) -> UInt64 {
    bytes.reversed().reduce(0) { $0 << 8 | UInt64($1) }
  }

  @Test("each field is read from its place, little-endian")
  func fields() {
    let bytes: [UInt8] = [1, 4, 0x36, 0x00, 0xb4, 0x05, 0x22, 0x01, 0x10, 0x02, 0x03, 0x04]
    let header = VirtioNetHeader(low: word(bytes[0..<8]), high: UInt32(word(bytes[8..<12])))
    #expect(header.flags == 1)
    #expect(header.gsoType == 4)
    #expect(header.headerLength == 0x36)
    #expect(header.gsoSize == 1460)
    #expect(header.checksumStart == 0x122)
    #expect(header.checksumOffset == 0x210)
    #expect(header.bufferCount == 0x403)
  }

  @Test("only a wish for a checksum or segmentation makes a header more than plain")
  func plain() {
    for (flags, gsoType, isPlain) in [
      (0, 0, true), (1, 0, false), (0, 1, false), (0, 0x80, false), (3, 0, false), (2, 0, true),
      (4, 0, true),
    ] as [(UInt64, UInt64, Bool)] {
      // hdr_len, gso_size and the checksum fields mean nothing without those.
      let header = VirtioNetHeader(low: flags | gsoType << 8 | 0xffff_ffff_ffff_0000, high: .max)
      #expect(header.isPlain == isPlain, "flags \(flags), gso_type \(gsoType)")
    }
  }

  @Test("the number of buffers is the last field", arguments: [0, 1, 0x1234, 65535] as [UInt16])
  func bufferCount(count: UInt16) {
    let tail = VirtioNetHeader.receivedTail(bufferCount: count)
    let header = VirtioNetHeader(low: 0, high: tail)
    #expect(header.bufferCount == count)
    #expect(header.checksumOffset == 0)
    #expect(header.isPlain)
  }
}

@Suite("Reverse ARP")
struct ReverseARPTests {
  @Test("an announcement is the frame of RFC 903, from and about the guest, padded to 60 bytes")
  func announcement() {
    let mac: [UInt8] = [0x52, 0x54, 0, 1, 2, 3]
    let frame = ReverseARP.announcement(of: (0x52, 0x54, 0, 1, 2, 3))
    #expect(frame.count == 60)
    #expect(Array(frame[0..<6]) == [UInt8](repeating: 0xff, count: 6))
    #expect(Array(frame[6..<12]) == mac)
    #expect(Array(frame[12..<22]) == [0x80, 0x35, 0, 1, 8, 0, 6, 4, 0, 3])
    #expect(Array(frame[22..<28]) == mac)
    #expect(Array(frame[28..<32]) == [0, 0, 0, 0])
    #expect(Array(frame[32..<38]) == mac)
    #expect(frame[38...].allSatisfy { $0 == 0 })
  }
}
