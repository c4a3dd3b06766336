import Testing

@testable import AFXDP

@Suite struct BPFObjectTests {
  @Test("the build embeds a little-endian 64-bit ELF object for the BPF machine")
  func elf() {
    let object = BPFObject.steer
    #expect(object.starts(with: [0x7f, 0x45, 0x4c, 0x46, 2, 1]))
    // e_machine is EM_BPF, 247.
    #expect(object[18] == 247 && object[19] == 0)
  }
}
