import Testing

extension SystemTests {
  // Firmware's drivers are short, use few buffers, poll, and leave the device to the next one.
  @Suite("a boot from the network", .enabled(if: Guest.isFetched, Guest.missing))
  struct NetworkBoot {
    static let version1 = 32
    let wire: Wire
    init() throws { wire = try Wire() }

    // iPXE's driver is a modern one whenever the device is: Linux is the legacy one, then modern.
    @Test("modern iPXE, a legacy and a modern Linux follow each other on one connection")
    func modern() throws {
      let daemon = try wire.startDaemon()
      try wire.shell("GUEST_APPEND=virtio_pci.force_legacy=1 netboot_serve")
      let guest = try Guest(on: wire, boot: .network)
      try guest.waitUntilUp()
      try expectBoots(["boot.ipxe", "vmlinuz", "initramfs.cpio.gz"])
      #expect(try !guest.hasFeature(Self.version1))
      #expect(try guest.ping(count: 20) == 20)
      let descriptors = try settledCount { daemon.descriptors }

      try wire.shell("netboot_append ''; guest_reboot")
      try guest.waitUntilUp()
      #expect(try guest.hasFeature(Self.version1))
      #expect(try guest.ping(count: 20) == 20)
      daemon.expectDescriptors(descriptors)
    }

    @Test("iPXE boots Linux over a legacy device")
    func legacy() throws {
      let daemon = try wire.startDaemon()
      try wire.shell("netboot_serve")
      let guest = try Guest(on: wire, device: ",disable-modern=on", boot: .network)
      try guest.waitUntilUp()
      try expectBoots(["boot.ipxe", "vmlinuz", "initramfs.cpio.gz"])
      #expect(try !guest.hasFeature(Self.version1))
      #expect(try guest.ping(count: 20) == 20)
      #expect(!daemon.process.output.contains("VERSION_1"), "iPXE was a legacy driver too")
    }

    @Test("UEFI firmware fetches iPXE by its own driver, and Linux follows")
    func uefi() throws {
      let daemon = try wire.startDaemon()
      try wire.shell("netboot_serve")
      // Without the ROM, which has a driver of its own for UEFI.
      let guest = try Guest(on: wire, device: ",romfile=,bootindex=1", boot: .uefi)
      try guest.waitUntilUp()
      try expectBoots(["ipxe.efi", "boot.ipxe", "vmlinuz", "initramfs.cpio.gz"])
      #expect(try guest.run("ls /sys/firmware/efi").contains("fw_vendor"))
      #expect(try guest.ping(count: 20) == 20)
      #expect(try daemon.faults() == [:])
    }

    /// The far end has sent each of `files`.
    private func expectBoots(_ files: [String]) throws {
      let log = try wire.shell("netboot_log")
      for file in files {
        let sent = log.split(separator: "\n").contains {
          $0.contains("/\(file)") && ($0.contains(" sent ") || $0.contains("url:"))
        }
        #expect(sent, "\(file): \(log.suffix(2000))")
      }
    }
  }
}
