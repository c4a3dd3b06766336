import AFXDP
import Glibc
import Linux
import Packet
import Testing

@testable import HostPort

func bulkOptions(_ interface: XDPInterface) -> XDPPortOptions {
  var options = options(interface)
  options.bulkLane = .auto
  options.segmentsTCP = true
  return options
}

/// Ten reserved frames, filled with 1,500 bytes each.
private func tenFrames(of queue: any HostPortQueue) -> FrameBatch {
  let batch = FrameBatch()
  queue.reserve(10, into: batch)
  for number in 0..<10 { #expect(batch.write(frame(size: 1500, number: number), at: number) == 1) }
  return batch
}

extension OnInterfaces {
  @Suite struct BulkLaneTests {
    @Test("over a veth a large packet arrives as it left, behind the frames before it")
    func uncut() throws {
      try PrivateNetwork.withVeth { a, b in
        let queue = try XDPPort(bulkOptions(a)).openQueue(0)
        let kernel = try PacketSocket(b)
        #expect(queue.bulkLane == BulkLane(mtu: 1500))
        #expect(queue.mode.contains("; bulk lane: packet (the interface segments TCP)"))
        let batch = FrameBatch()
        var got: [[UInt8]] = []
        var cut: UInt64 = 0
        for number in 0..<20 {
          // Nobody has called the kernel for them yet.
          queue.reserve(3, into: batch)
          for i in 0..<3 { #expect(batch.write(frame(number: i), at: i) == 1) }
          queue.transmit(batch, count: 3)
          let outcome = LargePacket(payload: 60000, number: number).sendInTime(by: queue)
          #expect(outcome.isTaken)
          cut += outcome.cut
          queue.send([frame(number: 4)])
          // What waits for the packet before it goes when somebody asks again.
          for _ in 0..<5000 where queue.flush() { usleep(1000) }
          if number % 5 == 4 { got += kernel.collect(atLeast: 5 * (number + 1) - got.count) }
        }
        #expect(got.map(\.count) == (0..<20).flatMap { _ in [60, 60, 60, 60054, 60] })
        #expect(queue.statistics["bulk_packets"] == 20)
        #expect(queue.statistics["bulk_busy"] ?? 0 <= cut)
        #expect(queue.statistics["bulk_refused"] == 0)
      }
    }

    @Test("what the kernel does not take is left to the caller to cut")
    func refused() throws {
      try PrivateNetwork.withVeth { a, _ in
        let queue = try XDPPort(bulkOptions(a)).openQueue(0)
        var packet = LargePacket(payload: 3000)
        packet.header.checksumStart = 60000
        #expect(packet.send(by: queue) == .cut)
        #expect(queue.statistics["bulk_refused"] == 1)
        // Guest memory that cannot be read: whoever cuts finds out why.
        #expect(LargePacket(payload: 3000).send(by: queue, isTorn: true) == .cut)
        #expect(queue.statistics["bulk_refused"] == 2)
        #expect(LargePacket(payload: 3000).send(by: queue) == .taken)
      }
    }

    @Test("while frames of the other lane are on their way a packet is left to the caller to cut")
    func busy() throws {
      try PrivateNetwork.withVeth { a, b in
        let queue = try XDPPort(bulkOptions(a)).openQueue(0)
        // Their skbs stay with a socket that nobody reads.
        let kernel = try PacketSocket(b)
        queue.send([frame(number: 1)])
        let outcome = LargePacket(payload: 3000).send(by: queue)
        let busy = queue.statistics["bulk_busy"] ?? 0
        #expect(outcome == .taken && busy == 0 || outcome == .cut && busy == 1)
        _ = kernel.collect(atLeast: 1)
        #expect(LargePacket(payload: 3000).sendInTime(by: queue).isTaken)
      }
    }

    @Test("a slow interface makes packets and frames wait, and gives back what they lie in")
    func slow() throws {
      try PrivateNetwork.withVeth { a, b in
        holdBack(a, holding: 300_000)
        let queue = try patientQueue(bulkOptions(a))
        let kernel = try PacketSocket(b)
        var taken = 0
        while taken < 100, LargePacket(payload: 60000, number: taken).send(by: queue) == .taken {
          taken += 1
        }
        #expect((3...10).contains(taken), "\(taken)")
        var small = 0
        while LargePacket(payload: 3000, number: small).send(by: queue) == .taken { small += 1 }
        queue.transmit(tenFrames(of: queue), count: 10)
        // Nothing overtakes what waits, and its frames are nobody else's.
        #expect(queue.flush())
        #expect(LargePacket(payload: 60000).send(by: queue) == .wait)
        speedUp(a, holding: 300_000)
        while queue.flush() { usleep(1000) }
        while LargePacket(payload: 60000).send(by: queue) == .wait { usleep(1000) }
        let expected = [(60054, taken), (3054, small), (1500, 10), (60054, 1)]
        let got = kernel.collect(atLeast: taken + small + 11)
        #expect(got.map(\.count) == expected.flatMap { [Int](repeating: $0.0, count: $0.1) })
        #expect(queue.freeTransmitFrames(expecting: 1024) == 1024)
        #expect(queue.statistics["bulk_frames"] == 10)
        #expect(queue.statistics["device_refused"] == 0)
        // Both have left: frames go by AF_XDP again.
        queue.send([frame(number: 11)])
        #expect(queue.statistics["bulk_frames"] == 10)
      }
    }

    @Test("where the kernel cuts, a part may have left: what is refused is not offered again")
    func notRepeatable() throws {
      try PrivateNetwork.withVeth { a, _ in
        holdBack(a, holding: 30_000)
        var cutting = bulkOptions(a)
        cutting.bulkLane = .packet
        cutting.segmentsTCP = false
        let queue = try XDPPort(cutting).openQueue(0)
        #expect(LargePacket(payload: 60000).send(by: queue) == .taken)
        #expect(queue.statistics["device_refused"] == 1)
      }
    }

    @Test("a guest does not stop while the link is down, and goes on when it is up")
    func linkDown() throws {
      try PrivateNetwork.withVeth { a, b in
        holdBack(a, holding: 300_000)
        let queue = try patientQueue(bulkOptions(a))
        let kernel = try PacketSocket(b)
        var taken = 0
        while LargePacket(payload: 60000, number: taken).send(by: queue) == .taken { taken += 1 }
        while LargePacket(payload: 3000).send(by: queue) == .taken {}
        queue.transmit(tenFrames(of: queue), count: 10)
        #expect(queue.flush())
        run("ip link set axt0 down")
        #expect(!queue.flush())
        let lost = (queue.statistics["link_down"] ?? 0) + (queue.statistics["bulk_frames"] ?? 0)
        #expect(lost == 10)
        let before = queue.statistics["link_down"] ?? 0
        for _ in 0..<5 { #expect(LargePacket(payload: 60000).send(by: queue) == .taken) }
        #expect(queue.statistics["link_down"] == before + 5)
        #expect(queue.freeTransmitFrames(expecting: 1024) == 1024)
        run("ip link set axt0 up")
        _ = kernel.collect()
        queue.send([frame(number: 77)])
        #expect(LargePacket(payload: 60000).sendInTime(by: queue).isTaken)
        #expect(kernel.collect(atLeast: 2).map(\.count) == [60, 60054])
      }
    }

    @Test("packets for an end without its other end are lost, and so they are without an interface")
    func gone() throws {
      try PrivateNetwork.withVeth { a, _ in
        let queue = try XDPPort(bulkOptions(a)).openQueue(0)
        run("ip link set axt1 down")
        usleep(50_000)
        for _ in 0..<200 {
          var tries = 0
          while LargePacket(payload: 60000).send(by: queue) == .wait, tries < 300 {
            tries += 1
            usleep(1000)
          }
          #expect(tries < 300)
        }
        run("ip link del axt0")
        #expect(LargePacket(payload: 60000).send(by: queue) == .taken)
        #expect((queue.statistics["link_down"] ?? 0) >= 1)
      }
    }

    // In a process of its own, since other tests open descriptors at the same time.
    @Test("its socket goes with the queue")
    func descriptors() async {
      await #expect(processExitsWith: .success) {
        try PrivateNetwork.withVeth { a, _ in
          func use() throws {
            let queue = try XDPPort(bulkOptions(a)).openQueue(0)
            guard LargePacket(payload: 3000).send(by: queue) == .taken else { exit(2) }
          }
          // The runtime opens some of its own the first time.
          try use()
          usleep(20_000)
          let before = openDescriptors()
          for _ in 0..<20 { try use() }
          // A program's go a little later.
          guard eventually({ openDescriptors() <= before }) else { exit(3) }
        }
      }
    }

    @Test("its socket receives nothing, and no child gets it")
    func receivesNothing() throws {
      try PrivateNetwork.withVeth { a, b in
        let lane = try Linux.PacketSocket(interfaceIndex: Int(a.index))
        let far = try XDPPort(options(b)).openQueue(0)
        far.send([frame(number: 1)])
        var byte: UInt8 = 0
        #expect(unsafe recv(lane.raw, &byte, 1, CInt(MSG_DONTWAIT)) < 0 && errno == EAGAIN)
        #expect(fcntl(lane.raw, F_GETFD) & FD_CLOEXEC != 0)
      }
    }

    @Test("a lane that was chosen for the interface's sake closes and opens with what it can")
    func follows() throws {
      try PrivateNetwork.withVeth { a, b in
        let port = try XDPPort(bulkOptions(a))
        let queue = try port.openQueue(0)
        #expect(port.follow(segmentsTCP: true) == nil)
        #expect(port.follow(segmentsTCP: false)?.contains("does not segment TCP any more") == true)
        #expect(port.follow(segmentsTCP: false) == nil)
        #expect(LargePacket(payload: 3000).send(by: queue) == .cut)
        #expect(port.follow(segmentsTCP: true)?.contains("again") == true)
        #expect(LargePacket(payload: 3000).send(by: queue) == .taken)
        // XDP on the other end takes TSO from ours.
        #expect(try EthtoolSocket().segmentsTCP("axt0"))
        let far = try XDPPort(options(b)).openQueue(0)
        #expect(try !EthtoolSocket().segmentsTCP("axt0"))
        _ = far
        #expect(try Interface.read("axt0")?.peer?.runsXDP == true)
      }
    }

    @Test("a packet of several frames follows by the packet socket as one")
    func severalFrames() throws {
      try PrivateNetwork.withVeth(mtu: 9000) { a, b in
        holdBack(a, holding: 300_000)
        var large = bulkOptions(a)
        large.mtu = 9000
        let queue = try patientQueue(large)
        try #require(queue.framesPerPacket > 1)
        let kernel = try PacketSocket(b)
        while LargePacket(payload: 60000).send(by: queue) == .taken {}
        let packets = (0..<20).map { frame(size: 8000 + 50 * $0, number: $0) }
        let batch = FrameBatch()
        queue.reserve(3 * packets.count, into: batch)
        var filled = 0
        for packet in packets { filled += batch.write(packet, at: filled) ?? 0 }
        queue.transmit(batch, count: filled)
        #expect(queue.flush())
        speedUp(a, holding: 300_000)
        while queue.flush() { usleep(1000) }
        let got = kernel.collect { $0 == packets.last }
        #expect(got.suffix(packets.count) == packets, "\(got.map(\.count))")
        #expect(queue.statistics["bulk_frames"] == 20)
      }
    }

    @Test("a checksum that a frame leaves to the device is asked of the kernel, too")
    func openChecksum() throws {
      try PrivateNetwork.withVeth { a, b in
        // The kernel fills it in then.
        #expect(run("ethtool -K \(a.name) tx off"))
        holdBack(a, holding: 300_000)
        var open = bulkOptions(a)
        open.checksums = .unchecked
        let queue = try patientQueue(open)
        try #require(queue.fillsChecksums)
        let kernel = try PacketSocket(b)
        while LargePacket(payload: 60000).send(by: queue) == .taken {}
        let batch = FrameBatch()
        queue.reserve(1, into: batch)
        // Only the checksum of bytes that are all 0 but for one is easily told.
        var bytes = [UInt8](repeating: 0, count: 60)
        bytes[12] = 0x88
        bytes[13] = 0xb5
        bytes[40] = 0x12
        #expect(batch.write(bytes, at: 0) == 1)
        var frame = unsafe batch[0]
        unsafe frame.leaveChecksum(from: 34, at: 16)
        unsafe batch[0] = frame
        queue.transmit(batch, count: 1)
        speedUp(a, holding: 300_000)
        while queue.flush() { usleep(1000) }
        while LargePacket(payload: 3000).send(by: queue) == .wait { usleep(1000) }
        bytes[50] = ~0x12
        bytes[51] = 0xff
        #expect(kernel.collect { $0.count == 60 }.last == bytes)
        #expect(queue.statistics["bulk_frames"] == 1)
      }
    }

    @Test("a lane is there where it is cheaper, or asked for, and the queue says why")
    func choice() throws {
      func decide(_ choice: BulkLaneChoice, _ segmentsTCP: Bool, _ zeroCopy: Bool) -> String {
        let (isWanted, reason) = choice.decide(segmentsTCP: segmentsTCP, zeroCopy: zeroCopy)
        return "\(isWanted ? "packet" : "off"): \(reason)"
      }
      #expect(decide(.auto, true, false) == "packet: the interface segments TCP")
      #expect(decide(.auto, false, false) == "off: the interface does not segment TCP")
      #expect(decide(.auto, true, true).hasPrefix("off: zero-copy"))
      #expect(decide(.off, true, false) == "off: by --bulk-lane=off")
      for zeroCopy in [true, false] {
        #expect(decide(.packet, true, zeroCopy).hasPrefix("packet: "))
        #expect(decide(.packet, false, zeroCopy).contains("the kernel segments"))
      }
      #expect(
        BulkLaneChoice.auto.decide(segmentsTCP: true, zeroCopy: false, peer: "peer0").reason
          .contains("peer0, the other end, runs an XDP program"))
      #expect(BulkLaneChoice.packet.decide(segmentsTCP: true, zeroCopy: false, peer: "p").isWanted)
      try PrivateNetwork.withVeth { a, _ in
        var without = bulkOptions(a)
        without.segmentsTCP = false
        let queue = try XDPPort(without).openQueue(0)
        #expect(queue.bulkLane == nil)
        #expect(queue.mode.contains("; bulk lane: off (the interface does not segment TCP)"))
        #expect(queue.statistics["bulk_packets"] == nil)
      }
    }
  }
}

private func openDescriptors() -> Int {
  (0..<1024).count { fcntl($0, F_GETFD) >= 0 }
}
