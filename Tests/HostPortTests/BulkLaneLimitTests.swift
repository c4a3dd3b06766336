// What the bulk lane does not take: for want of room, or because kernel and device cannot.
import AFXDP
import CLinux
import Glibc
import Linux
import Packet
import SharedRing
import Testing

@testable import HostPort

extension OnInterfaces {
  @Suite struct BulkLaneLimitTests {
    @Test("what a device refuses for long is given up and counted")
    func refusing() throws {
      try PrivateNetwork.withVeth { a, _ in
        // It holds one packet behind the first.
        holdBack(a, holding: 100_000)
        let queue = try XDPPort(bulkOptions(a)).openQueue(0)
        for _ in 0..<2 { #expect(LargePacket(payload: 60000).send(by: queue) == .taken) }
        var tries = 0
        let patience = ContinuousClock().measure {
          while LargePacket(payload: 60000).send(by: queue) == .wait {
            tries += 1
            usleep(1000)
          }
        }
        #expect(tries > 0)
        #expect(patience > .milliseconds(90), "\(patience)")
        #expect(queue.statistics["device_refused"] == 1)
        #expect(LargePacket(payload: 60000).send(by: queue) == .taken)
        #expect(queue.statistics["device_refused"] == 2)
      }
    }

    @Test("what a device refuses although nothing is on its way is left to the caller to cut")
    func tooSmall() throws {
      try PrivateNetwork.withVeth { a, _ in
        holdBack(a, holding: 30_000)
        let queue = try XDPPort(bulkOptions(a)).openQueue(0)
        #expect(LargePacket(payload: 60000).send(by: queue) == .cut)
        #expect(queue.statistics["bulk_refused"] == 1)
        #expect(queue.statistics["device_refused"] == 0)
      }
    }

    @Test(
      "a packet that the kernel cannot cut, with the tag 0x9100, is left to the caller, at once")
    func oldTag() throws {
      try PrivateNetwork.withVeth { a, b in
        let queue = try XDPPort(bulkOptions(a)).openQueue(0)
        var packet = LargePacket(payload: 6000)
        packet.bytes.insert(contentsOf: [0x91, 0, 0, 5], at: 12)
        packet.header.headerLength = 58
        packet.header.checksumStart = 38
        #expect(packet.send(by: queue) == .cut)
        #expect(queue.statistics["bulk_refused"] == 1)
        #expect(queue.statistics["device_refused"] == 0)
      }
    }

    @Test("a full frame with a provider's tag, which a packet socket refuses, waits for AF_XDP")
    func providerTag() throws {
      try PrivateNetwork.withVeth { a, b in
        // Nothing is offered that has the rest follow sooner: the socket refuses the frame by itself.
        holdBack(a, holding: 300_000, rate: "64kbit")
        let queue = try patientQueue(bulkOptions(a))
        let kernel = try PacketSocket(b)
        var full = frame(size: 1518, number: 3)
        full.replaceSubrange(12..<18, with: [0x88, 0xa8, 0, 5, 0x88, 0xb5])
        queue.send([full])
        #expect(kernel.collect(atLeast: 1).map(\.count).contains { $0 >= 1514 }, "by AF_XDP")
        while LargePacket(payload: 60000).send(by: queue) == .taken {}
        speedUp(a, holding: 300_000)
        queue.send([full])
        while queue.flush() { usleep(1000) }
        #expect(queue.statistics["device_refused"] == 0)
        let isFull = { (frame: [UInt8]) in frame.count == 1514 || frame.count == 1518 }
        let got = kernel.collect(until: isFull)
        #expect(got.last.map(isFull) == true, "by the lane")
        #expect(LargePacket(payload: 60000).sendInTime(by: queue).isTaken, "the lane is open again")
      }
    }

    @Test("frames that change to AF_XDP leave frames that are handed out their places")
    func promisedPlaces() throws {
      try PrivateNetwork.withVeth { a, b in
        var options = bulkOptions(a)
        options.rings = XDPRingSizes(receive: 64, transmit: 64)
        let queue = try #require(try XDPPort(options).openQueue(0) as? XDPQueue)
        let kernel = try PacketSocket(b)
        let promised = FrameBatch()
        queue.reserve(32, into: promised)
        for i in 0..<32 { #expect(promised.write(frame(size: 100, number: i), at: i) == 1) }
        // More than there are places besides; the packet socket has taken none.
        let batch = FrameBatch()
        for portion in 0..<2 {
          queue.reserve(32, into: batch)
          try #require(batch.count == 32)
          for i in 0..<32 {
            #expect(batch.write(frame(size: 200, number: 32 * portion + i), at: i) == 1)
            unsafe queue.lane.waiting.append(batch[i])
          }
          queue.link.value.handedOut -= 32
          batch.removeAll()
        }
        queue.lane.isInUse = true
        queue.lane.state.value.isLeaving = true
        _ = queue.sendWaiting()
        let waiting = queue.lane.waiting.count
        #expect(waiting == 32)
        queue.transmit(promised, count: 32)
        for _ in 0..<5000 where queue.flush() { usleep(1000) }
        #expect(queue.statistics["link_down"] == 0)
        let expected = [Int](repeating: 200, count: 64) + [Int](repeating: 100, count: 32)
        #expect(kernel.collect(atLeast: 96).map(\.count) == expected)
        let isInUse = queue.lane.isInUse
        #expect(!isInUse)
        #expect(queue.freeTransmitFrames(expecting: 64) == 64)
      }
    }

    @Test(
      "while packets are on their way, one from another CPU waits: it may get another hardware queue"
    )
    func otherCPU() throws {
      var cpus = [CInt](repeating: 0, count: 64)
      let count = unsafe clinux_allowed_cpus(&cpus, 64)
      guard count >= 2 else { return }
      try PrivateNetwork.withVeth { a, _ in
        holdBack(a, holding: 300_000)
        let queue = try patientQueue(bulkOptions(a))
        #expect(clinux_pin_thread(cpus[0]) == 0)
        #expect(LargePacket(payload: 60000).send(by: queue) == .taken)
        #expect(LargePacket(payload: 60000).send(by: queue) == .taken)
        #expect(clinux_pin_thread(cpus[1]) == 0)
        #expect(LargePacket(payload: 60000).send(by: queue) == .wait)
        #expect(clinux_pin_thread(cpus[0]) == 0)
        #expect(LargePacket(payload: 60000).send(by: queue) == .taken)
      }
    }
  }
}
