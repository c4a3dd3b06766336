import Packet
import Testing

@Suite("The Internet checksum")
struct InternetChecksumTests {
  private func bytes(_ count: Int) -> [UInt8] { (0..<count).map { UInt8($0 &* 37 & 255) } }

  /// RFC 1071, a word at a time.
  private func model(_ bytes: ArraySlice<UInt8>) -> UInt16 {
    var sum: UInt32 = 0
    for (i, byte) in bytes.enumerated() { sum += i % 2 == 0 ? UInt32(byte) << 8 : UInt32(byte) }
    while sum > 0xffff { sum = (sum & 0xffff) + (sum >> 16) }
    return UInt16(sum)
  }

  @Test("sums of every length, from every alignment, are those of RFC 1071")
  func lengths() {
    let bytes = bytes(300)
    for start in 0..<9 {
      for count in 0..<200 {
        let expected = model(bytes[start..<start + count])
        let sum = unsafe bytes.withUnsafeBytes {
          unsafe InternetChecksum.sum($0.baseAddress! + start, count: count)
        }
        #expect(InternetChecksum.fold(sum).bigEndian == expected)
      }
    }
  }

  @Test("bytes are copied and summed in one go")
  func copies() {
    let bytes = bytes(300)
    for count in [0, 1, 7, 8, 9, 63, 64, 65, 299] {
      var copy = [UInt8](repeating: 0xee, count: 300)
      let sum = unsafe bytes.withUnsafeBytes { from in
        unsafe copy.withUnsafeMutableBytes { to in
          unsafe InternetChecksum.copy(from.baseAddress!, to: to.baseAddress!, count: count)
        }
      }
      #expect(copy == bytes.prefix(count) + [UInt8](repeating: 0xee, count: 300 - count))
      #expect(InternetChecksum.fold(sum).bigEndian == model(bytes.prefix(count)))
    }
  }

  @Test("a part at an odd place counts with its bytes exchanged")
  func oddPlaces() {
    let bytes = bytes(101)
    for cut in 0...101 {
      let (first, second) = unsafe bytes.withUnsafeBytes {
        unsafe (
          InternetChecksum.sum($0.baseAddress!, count: cut),
          InternetChecksum.sum($0.baseAddress! + cut, count: 101 - cut)
        )
      }
      let total = first + (cut % 2 == 0 ? second : InternetChecksum.atOddPlace(second))
      #expect(InternetChecksum.fold(total).bigEndian == model(bytes[...]))
    }
  }

  @Test("the largest sum there can be folds to 16 bits")
  func fold() {
    #expect(InternetChecksum.fold(.max) == 0xffff)
    #expect(InternetChecksum.fold(0) == 0)
    #expect(InternetChecksum.nonzeroChecksum(0xffff) == 0xffff)
    #expect(InternetChecksum.checksum(0xffff) == 0)
  }
}

@Suite("Where the headers of a frame are")
struct FrameHeadersTests {
  private func headers(_ bytes: [UInt8]) -> FrameHeaders? {
    unsafe bytes.withUnsafeBytes { unsafe FrameHeaders($0.baseAddress!, count: bytes.count) }
  }

  private let link = [UInt8](repeating: 2, count: 12)
  private func ipv4(_ protocolNumber: UInt8, words: Int = 5, fragment: [UInt8] = [0x40, 0])
    -> [UInt8]
  {
    [UInt8(0x40 + words), 0, 0, 0, 0, 0] + fragment + [64, protocolNumber]
      + [UInt8](repeating: 0, count: 4 * words - 10)
  }
  private let tcp = [UInt8](repeating: 0, count: 12) + [0x60] + [UInt8](repeating: 0, count: 11)

  @Test("VLAN tags, options and extension headers are passed over")
  func places() throws {
    let plain = try #require(headers(link + [8, 0] + ipv4(6) + tcp))
    #expect(plain.networkStart == 14 && plain.transportStart == 34 && plain.payloadStart == 58)
    let tagged = try #require(
      headers(
        link + [0x88, 0xa8, 0, 1, 0x81, 0, 0, 2, 8, 0] + ipv4(17, words: 15) + [
          0, 0, 0, 0, 0, 8, 0, 0,
        ]))
    #expect(tagged.networkStart == 22 && tagged.transportStart == 82 && tagged.payloadStart == 90)
    let ipv6 = [UInt8](arrayLiteral: 0x60, 0, 0, 0, 0, 0, 0, 64) + [UInt8](repeating: 0, count: 32)
    let extended = try #require(
      headers(
        link + [0x86, 0xdd] + ipv6 + [60, 0, 0, 0, 0, 0, 0, 0] + [6, 1]
          + [UInt8](repeating: 0, count: 14) + tcp))
    #expect(extended.transport == 6 && extended.transportStart == 78)
    #expect(extended.payloadStart == 102)
  }

  @Test("each length is checked: no prefix of a frame is read beyond its end")
  func prefixes() {
    let whole = link + [0x81, 0, 0, 1, 8, 0] + ipv4(6, words: 7) + tcp
    for count in 0..<whole.count {
      // An allocation of its own: a sanitizer sees what is beyond it.
      let headers = headers(Array(whole.prefix(count)))
      #expect(headers?.payloadStart == nil)
      #expect((headers != nil) == (count >= 18 + 28))
    }
    #expect(headers(whole)?.payloadStart == whole.count)
  }

  @Test("a packet that its source routes is told from others")
  func sourceRoutes() {
    var header = ipv4(6, words: 8)
    for (options, expected) in [
      ([1, 131, 7, 4, 1, 2, 3, 4, 0, 0, 0, 0], true),
      ([137, 11, 4, 1, 2, 3, 4, 1, 2, 3, 4, 0], true),
      ([7, 11, 4, 131, 137, 0, 0, 0, 0, 0, 0, 0], false),
      ([0, 131, 7, 4, 0, 0, 0, 0, 0, 0, 0, 0], false),
      ([7, 0, 131, 7, 0, 0, 0, 0, 0, 0, 0, 0], false),
      ([7, 200, 131, 7, 0, 0, 0, 0, 0, 0, 0, 0], false),
    ] as [([UInt8], Bool)] {
      header.replaceSubrange(20..<32, with: options)
      #expect(headers(link + [8, 0] + header + tcp)?.isSourceRouted == expected, "\(options)")
    }
  }

  @Test("fragments have no transport header, and other protocols none that is known")
  func fragments() {
    #expect(headers(link + [8, 0] + ipv4(6, fragment: [0x20, 0]) + tcp)?.isFragment == true)
    #expect(headers(link + [8, 0] + ipv4(6, fragment: [0, 1]) + tcp)?.payloadStart == nil)
    #expect(headers(link + [8, 0] + ipv4(132) + tcp)?.payloadStart == nil)
    #expect(headers(link + [8, 6] + ipv4(6) + tcp) == nil)
    #expect(headers(link + [8, 0, 0x65] + ipv4(6).dropFirst() + tcp) == nil)
    #expect(
      headers(link + [8, 0] + ipv4(6, words: 5).prefix(0) + [0x44] + ipv4(6).dropFirst() + tcp)
        == nil)
  }
}
