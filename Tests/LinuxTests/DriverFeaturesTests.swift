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
