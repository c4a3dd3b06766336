import Packet
import Testing

@Suite("Ethernet addresses")
struct MACAddressTests {
  @Test("colons, hyphens and either case are read; one form is written")
  func forms() throws {
    let address = try #require(MACAddress("52:54:00:aB:0c:FF"))
    #expect(address.bytes == [0x52, 0x54, 0x00, 0xab, 0x0c, 0xff])
    #expect(address.description == "52:54:00:ab:0c:ff")
    #expect(MACAddress("52-54-00-AB-0C-FF") == address)
    #expect(MACAddress(bytes: address.bytes) == address)
    #expect(MACAddress(address.description) == address)
  }

  @Test(
    "what is not an address is refused",
    arguments: [
      "", "52:54:00:ab:0c", "52:54:00:ab:0c:ff:00", "52:54:00:ab:0c:fg", "5254.00ab.0cff",
      "525400ab0cff", "52:54:00:ab:0c:f", "52:54:00:ab:0:cff", "52:54:00:ab:0c:ff ",
      " 52:54:00:ab:0c:ff", "52::54:00:ab:0cff", "+2:54:00:ab:0c:ff", "52:54:00:ab:0c:-1",
      "52:54:00:ab:0c:ff:",
    ])
  func refused(text: String) { #expect(MACAddress(text) == nil) }

  @Test("six bytes it must be", arguments: [0, 5, 7])
  func count(bytes: Int) { #expect(MACAddress(bytes: Array(repeating: 1, count: bytes)) == nil) }

  @Test("the group bit tells multicast and broadcast")
  func multicast() {
    #expect(MACAddress("ff:ff:ff:ff:ff:ff")?.isMulticast == true)
    #expect(MACAddress("01:00:5e:00:00:01")?.isMulticast == true)
    #expect(MACAddress("33:33:00:00:00:01")?.isMulticast == true)
    #expect(MACAddress("52:54:00:00:00:01")?.isMulticast == false)
  }
}
