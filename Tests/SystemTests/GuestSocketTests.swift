import Testing

extension SystemTests {
  // A frame of a guest's AF_XDP socket has no linear head in copy mode: the driver gets fragments of
  // the socket's memory and puts the virtio-net header before them, in a descriptor of its own.
  @Suite("AF_XDP inside the guest", .enabled(if: Guest.isFetched, Guest.missing))
  struct GuestSockets {
    @Test("in copy mode every byte of every size arrives, both ways", arguments: ["", "newest"])
    func copyMode(kernel: String) throws {
      let wire = try Wire()
      let daemon = try wire.startDaemon()
      let guest = try Guest(on: wire, kernel: kernel)
      try guest.waitUntilUp()
      #expect(try guest.sendPatterns().seen == .all)
      #expect(try guest.receivePatterns() == .all)
      #expect(try guest.receivePatterns("skb") == .all)
      #expect(try guest.ping(count: 20) == 20)
      #expect(try daemon.losses() == [:])
    }
  }
}
