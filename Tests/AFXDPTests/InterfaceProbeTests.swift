// What follows from the answers about an interface, with answers that are made up.
import Glibc
import Linux
import Testing

@testable import AFXDP

@Suite("Interface probes")
struct InterfaceProbeTests {
  private let hardware = Interface(
    name: "eth1", index: 3, mtu: 1500, driver: "ice", bus: "0000:3b:00.0",
    receiveQueues: .init(count: 4, most: 64, channelKind: "combined", hashed: [0, 1]), numaNode: 1)
  private let everything = DriverFeatures(
    xdp: [.basic, .redirect, .zeroCopy, .fragments], zeroCopySegments: 5,
    transmitMetadata: [.checksum, .timestamp])

  private func findings(
    _ interface: Interface, _ driver: InterfaceProbes.DriverAnswer, socketFailure: Errno? = nil,
    multiBufferFailure: String? = nil, kernel: KernelRelease = KernelRelease(6, 12)
  ) -> [String: Finding] {
    let probes = InterfaceProbes(
      interface: interface, driver: driver, socketFailure: socketFailure,
      multiBufferFailure: multiBufferFailure, kernel: kernel)
    let all = probes.identity + probes.abilities + probes.transmitMetadata
    return Dictionary(uniqueKeysWithValues: all.map { ($0.name, $0) })
  }

  @Test("a driver that has it all is found to have it all, with the numbers")
  func complete() {
    let found = findings(hardware, .features(everything))
    let supported = found.values.filter { $0.state == .supported }.map(\.name)
    #expect(Set(supported) == Set(found.keys).subtracting(["no-linear-tx"]))
    #expect(found["driver"]?.details == [.init(name: "value", value: .text("ice"))])
    #expect(found["bus"]?.details == [.init(name: "value", value: .text("0000:3b:00.0"))])
    #expect(found["numa-node"]?.details == [.init(name: "value", value: .number(1))])
    #expect(
      found["queues"]?.details == [
        .init(name: "in-use", value: .number(4)), .init(name: "most", value: .number(64)),
        .init(name: "in-hash-table", value: .number(2)),
      ])
    #expect(
      found["multi-buffer"]?.details == [.init(name: "zero-copy-segments", value: .number(5))])
  }

  @Test("a driver that has nothing is told from a kernel that does not tell")
  func nothing() {
    let names = ["native-xdp", "zero-copy", "multi-buffer", "checksum", "timestamp"]
    let none = findings(hardware, .features(DriverFeatures(xdp: [], transmitMetadata: [])))
    #expect(names.allSatisfy { none[$0]?.state == .unsupported })
    let old = findings(hardware, .noFamily, kernel: KernelRelease(6, 1))
    #expect(names.allSatisfy { old[$0]?.state == .unknown })
    #expect(names.allSatisfy { old[$0]?.reason.contains("6.3") == true })
    let refused = findings(hardware, .failed(Errno(EACCES)))
    #expect(names.allSatisfy { refused[$0]?.state == .unknown })
    #expect(names.allSatisfy { refused[$0]?.reason.contains("EACCES") == true })
  }

  @Test("a driver that does not redirect is of no use to sockets")
  func withoutRedirect() {
    let found = findings(hardware, .features(DriverFeatures(xdp: .basic)))
    #expect(found["native-xdp"]?.state == .unsupported)
    #expect(found["native-xdp"]?.reason.contains("redirect") == true)
  }

  @Test("a kernel that tells no transmit metadata leaves it unknown, and the rest known")
  func withoutMetadata() {
    let found = findings(
      hardware, .features(DriverFeatures(xdp: [.basic, .redirect])), kernel: KernelRelease(6, 7))
    #expect(found["checksum"]?.state == .unknown && found["timestamp"]?.state == .unknown)
    #expect(found["native-xdp"]?.state == .supported)
  }

  @Test("an AF_XDP socket is refused for want of privilege, or because there is none")
  func sockets() {
    func af(_ code: CInt) -> Finding? {
      findings(hardware, .noFamily, socketFailure: Errno(code))["af-xdp"]
    }
    #expect(af(EPERM)?.state == .unknown && af(EPERM)?.reason.contains("CAP_NET_RAW") == true)
    #expect(af(EAFNOSUPPORT)?.state == .unsupported)
    #expect(af(EMFILE)?.state == .unknown)
  }

  @Test("transmitting without a linear part is known of one driver, since Linux 5.12")
  func noLinear() {
    var guest = hardware
    guest.driver = "virtio_net"
    #expect(findings(guest, .noFamily)["no-linear-tx"]?.state == .supported)
    let old = findings(guest, .noFamily, kernel: KernelRelease(5, 11))
    #expect(old["no-linear-tx"]?.state == .unsupported)
    #expect(findings(hardware, .noFamily)["no-linear-tx"]?.state == .unknown)
  }

  @Test("an MTU of more than a frame needs a kernel that spreads packets over several")
  func largeMTU() {
    func state(_ mtu: Int, _ failure: String?, _ socketFailure: Errno? = nil) -> Finding.State? {
      var interface = hardware
      interface.mtu = mtu
      return findings(
        interface, .features(everything), socketFailure: socketFailure,
        multiBufferFailure: failure)["mtu"]?.state
    }
    #expect(state(1500, "none") == .supported)
    #expect(state(9000, nil) == .supported)
    #expect(state(9000, "none") == .unsupported)
    #expect(state(9000, "no socket", Errno(EPERM)) == .unknown)
    #expect(state(FrameGeometry.largestMultiBufferMTU + 1, nil) == .unsupported)
  }

  @Test("a kernel without multi-buffer makes the driver's word worth nothing")
  func multiBuffer() {
    let driver = InterfaceProbes.DriverAnswer.features(everything)
    #expect(
      findings(hardware, driver, multiBufferFailure: "none")["multi-buffer"]?.state
        == .unsupported)
    let unasked = findings(
      hardware, driver, socketFailure: Errno(EPERM), multiBufferFailure: "no socket")
    #expect(unasked["multi-buffer"]?.state == .supported)
  }

  @Test("an interface without a device has no bus and no node, and a large MTU is not carried")
  func bare() {
    let found = findings(Interface(name: "x", index: 1, mtu: 65535), .noFamily)
    #expect(["driver", "bus", "numa-node"].allSatisfy { found[$0]?.state == .unknown })
    #expect(found["mtu"]?.state == .unsupported)
    #expect(found["queues"]?.probe == "IFLA_NUM_RX_QUEUES")
  }
}
