// What the kernel says of drivers.
import Glibc
import Testing

@testable import Linux

@Suite("Driver features")
struct DriverFeaturesTests {
  @Test("attributes are read by number; those that are missing are not known")
  func attributes() {
    let all = DriverFeatures(attributes: [
      1: [7, 0, 0, 0], 3: [0x2b, 0, 0, 0, 0, 0, 0, 0], 4: [17, 0, 0, 0],
      6: [3, 0, 0, 0, 0, 0, 0, 0],
    ])
    #expect(
      all
        == DriverFeatures(
          xdp: [.basic, .redirect, .zeroCopy, .fragments], zeroCopySegments: 17,
          transmitMetadata: [.timestamp, .checksum]))
    let old = DriverFeatures(attributes: [3: [0, 0, 0, 0, 0, 0, 0, 0x80]])
    #expect(old == DriverFeatures(xdp: .init(rawValue: 1 << 63)))
    #expect(DriverFeatures(attributes: [1: [7, 0, 0, 0]]) == nil)
  }

  @Test("what the kernel sends of an interface is read as it lies in the message")
  func message() {
    // Of a veth, from Linux 6.18, behind genlmsghdr: ifindex, xdp-features, xdp-rx-metadata-features,
    // xsk-features.
    var body: [UInt8] = [
      1, 1, 0, 0, 8, 0, 1, 0, 3, 0, 0, 0, 12, 0, 3, 0, 35, 0, 0, 0, 0, 0, 0, 0, 12, 0, 5, 0, 7,
      0, 0, 0, 0, 0, 0, 0, 12, 0, 6, 0, 0, 0, 0, 0, 0, 0, 0, 0,
    ]
    let veth = DriverFeatures(attributes: NetlinkMessage(body: body).attributes(after: 4))
    #expect(
      veth == DriverFeatures(xdp: [.basic, .redirect, .fragments], transmitMetadata: []))
    // The same with tx-timestamp and tx-checksum.
    body[40] = 3
    let both = DriverFeatures(attributes: NetlinkMessage(body: body).attributes(after: 4))
    #expect(both?.transmitMetadata == [.timestamp, .checksum])
    for length in 0..<body.count {
      let cut = NetlinkMessage(body: Array(body.prefix(length))).attributes(after: 4)
      #expect(DriverFeatures(attributes: cut)?.transmitMetadata == nil)
    }
  }

  @Test("the loopback interface, which runs no XDP program itself, is answered for")
  func loopback() throws {
    // Kernels before 6.3 do not know.
    guard let features = try DriverFeatures.read(interfaceIndex: 1) else { return }
    #expect(features.xdp.isDisjoint(with: [.basic, .redirect, .zeroCopy]))
  }

  @Test("an interface that does not exist is an error of the kernel's")
  func missing() {
    #expect(throws: Errno(ENODEV)) {
      guard try DriverFeatures.read(interfaceIndex: 0x7fff_0000) != nil else {
        throw Errno(ENODEV)
      }
    }
  }

  @Test("kernel releases are compared by both numbers, and the one that runs is known")
  func release() {
    #expect(KernelRelease(5, 11) < KernelRelease(5, 12))
    #expect(KernelRelease(5, 12) < KernelRelease(6, 0))
    #expect(KernelRelease.running > KernelRelease(4, 0))
  }
}
