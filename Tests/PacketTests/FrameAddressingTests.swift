// What a receive filter sees of a frame.
import Testing

@testable import Packet

@Suite("Addressing of a frame")
struct FrameAddressingTests {
  /// As the data path takes it: 16 bytes are readable, whatever the frame's length.
  private func addressing(_ frame: [UInt8], stale: UInt8 = 0xee) -> FrameAddressing {
    let bytes = frame + [UInt8](repeating: stale, count: 16)
    func word(_ offset: Int) -> UInt64 {
      (0..<8).reduce(0) { $0 | UInt64(bytes[offset + $1]) << UInt64(8 * $1) }
    }
    return FrameAddressing(low: word(0), high: word(8), length: frame.count)
  }

  private let guest: [UInt8] = [0x52, 0x54, 0, 0x12, 0x34, 0x56]
  private let sender: [UInt8] = [2, 0, 0, 0, 0, 9]

  @Test("the destination is told apart: unicast, multicast, broadcast")
  func destination() {
    let unicast = addressing(guest + sender + [0x08, 0] + [0, 0, 0, 0])
    #expect(unicast.destination == MACAddress(bytes: guest)!.word)
    #expect(!unicast.isMulticast && !unicast.isBroadcast && unicast.vlan == nil)
    let multicast = addressing([0x33, 0x33, 0, 0, 0, 1] + sender + [0x86, 0xdd, 0, 0])
    #expect(multicast.isMulticast && !multicast.isBroadcast)
    let broadcast = addressing([UInt8](repeating: 0xff, count: 6) + sender + [8, 6, 0, 0])
    #expect(broadcast.isMulticast && broadcast.isBroadcast)
  }

  @Test("the identifier of an 802.1Q tag is taken without priority, and only of a whole tag")
  func vlan() {
    func tagged(_ control: UInt16, type: [UInt8] = [0x81, 0]) -> [UInt8] {
      guest + sender + type + [UInt8(control >> 8), UInt8(control & 0xff)] + [8, 0]
    }
    for identifier: UInt16 in [0, 1, 255, 256, 4095] {
      #expect(addressing(tagged(identifier)).vlan == identifier)
      #expect(addressing(tagged(identifier | 0xf000)).vlan == identifier)
    }
    #expect(addressing(tagged(5, type: [0x88, 0xa8])).vlan == nil, "a service tag is another one")
    #expect(addressing(Array(tagged(5).prefix(17))).vlan == nil)
    #expect(addressing(guest + sender + [0x81, 0]).vlan == nil, "what follows is not the frame's")
  }

  @Test("an address that is made up is locally administered, unicast and always the same")
  func madeUp() {
    var seen: Set<MACAddress> = []
    for i in 0..<1000 {
      let address = MACAddress(madeUpFrom: "eth\(i)")
      #expect(address == MACAddress(madeUpFrom: "eth\(i)"))
      #expect(address.bytes[0] & 3 == 2)
      seen.insert(address)
    }
    #expect(seen.count == 1000)
    #expect(MACAddress(madeUpFrom: "").bytes[0] & 3 == 2)
  }
}
