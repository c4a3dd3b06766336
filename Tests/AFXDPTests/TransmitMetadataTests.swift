// What is asked of a device in front of a frame, and who is asked.
import Linux
import Testing

@testable import AFXDP

@Suite("Transmit metadata")
struct TransmitMetadataTests {
  @Test("a request is the kernel's structure, right in front of the frame")
  func bytes() {
    var memory = [UInt8](repeating: 0xee, count: 80)
    unsafe memory.withUnsafeMutableBytes {
      unsafe TransmitMetadata.requestChecksum(
        from: 0x0122, at: 0x0310, of: $0.baseAddress! + 64)
    }
    #expect(memory[40..<52] == [2, 0, 0, 0, 0, 0, 0, 0, 0x22, 0x01, 0x10, 0x03])
    #expect(memory[..<40].allSatisfy { $0 == 0xee } && memory[52...].allSatisfy { $0 == 0xee })
  }

  @Test("what the kernel demands of the length holds, and a frame has its room behind it")
  func geometry() {
    #expect(TransmitMetadata.length % 8 == 0 && (16..<256).contains(TransmitMetadata.length))
    #expect(TransmitMetadata.length <= TransmitMetadata.frameOffset)
    #expect(TransmitMetadata.frameOffset <= FrameGeometry.kernelHeadroom)
  }

  private let able = DriverFeatures(
    xdp: [.basic, .redirect, .zeroCopy], transmitMetadata: [.checksum, .timestamp])

  @Test("a driver that fills checksums in is asked, and does it with zero-copy")
  func nic() {
    let probe = ChecksumProbe(driver: "mlx5_core", features: able)
    #expect(probe.refusal == nil)
    #expect(probe.filler(refusal: nil, zeroCopy: true) == .nic)
    #expect(
      probe.filler(refusal: nil, zeroCopy: false)
        == .daemon(because: "the NIC's are for zero-copy"))
    #expect(probe.filler(refusal: nil, zeroCopy: true).text == "the NIC")
  }

  @Test("nobody is asked who may not do it, and the reason says what is missing")
  func refusals() {
    let timestamps = DriverFeatures(xdp: .zeroCopy, transmitMetadata: .timestamp)
    for (probe, reason) in [
      (ChecksumProbe(.daemon, driver: nil, features: able), "--disable-offload=hwcsum"),
      (ChecksumProbe(mode: .skb, driver: "ice", features: able), "zero-copy"),
      (ChecksumProbe(copyMode: .copy, driver: "ice", features: able), "zero-copy"),
      (ChecksumProbe(driver: "ice", features: nil), "does not say what driver ice can"),
      (ChecksumProbe(driver: nil, features: DriverFeatures(xdp: .zeroCopy)), "6.8"),
      (ChecksumProbe(driver: "igc", features: timestamps), "driver igc fills in none"),
      (
        ChecksumProbe(
          interface: "eth7", driver: "mlx5_core", features: able, sharesRequests: true),
        "`ethtool --set-priv-flags eth7 xdp_tx_mpwqe off`"
      ),
    ] {
      #expect(probe.refusal?.contains(reason) == true, "\(reason): \(probe.refusal ?? "")")
      let filler = probe.filler(refusal: probe.refusal, zeroCopy: true)
      #expect(filler.text.hasPrefix("the daemon (") && filler.text.contains(reason))
    }
  }

  @Test("a kernel without metadata leaves them to the daemon, whatever the driver says")
  func oldKernel() {
    let probe = ChecksumProbe(driver: "mlx5_core", features: able)
    let filler = probe.filler(refusal: ChecksumProbe.registrationReason, zeroCopy: true)
    #expect(filler.text.contains("Linux 6.11"))
  }

  @Test("the kernel's own software is for copy mode")
  func kernel() {
    let probe = ChecksumProbe(.kernel, mode: .skb, driver: nil, features: nil)
    #expect(probe.refusal == nil && probe.filler(refusal: nil, zeroCopy: false) == .kernel)
    #expect(probe.filler(refusal: nil, zeroCopy: true) != .kernel)
  }
}
