// Packets that lie in several frames, over a veth of jumbo MTU.
import AFXDP
import Glibc
import Linux
import SharedRing
import Testing

@testable import HostPort

extension OnInterfaces {
  @Suite(.enabled(if: multiBufferRefusal() == nil, "\(multiBufferRefusal() ?? "")"))
  struct MultiBufferTests {
    /// Around every border of a frame, and the ends.
    private static let sizes = [
      60, 1514, 3839, 3840, 3841, 3853, 3854, 7679, 7680, 7681, 7682, 9000, 9014, 9018,
    ]

    @Test(
      "packets of every size up to the MTU arrive whole and in order, both ways",
      arguments: [XDPModeChoice.native, .skb])
    func roundTrip(mode: XDPModeChoice) throws {
      try PrivateNetwork.withVeth(mtu: 9000) { a, b in
        let port = try XDPPort(options(a, mode: mode, mtu: 9000))
        #expect(port.capabilities.mtu == 9000 && port.notes.isEmpty, "\(port.notes)")
        let near = try port.openQueue(0)
        let far = try XDPPort(options(b, mode: mode, mtu: 9000)).openQueue(0)
        #expect(near.framesPerPacket == 3)
        #expect(near.mode.hasPrefix(mode == .native ? "native, copy" : "skb, copy"))
        #expect(near.mode.contains("up to 3 frames a packet"))
        var sent: [[UInt8]] = []
        for number in 0..<600 {
          let sizes = MultiBufferTests.sizes
          let size = number < 300 ? sizes[number % sizes.count] : 60 + number * 131 % 8955
          sent.append(frame(size: size, number: number))
        }
        for portion in stride(from: 0, to: sent.count, by: 100) {
          let frames = Array(sent[portion..<portion + 100])
          #expect(near.send(frames) == 100)
          #expect(far.collect(100) == frames)
          #expect(far.send(frames) == 100)
          #expect(near.collect(100) == frames)
        }
        #expect(near.statistics.troubles.isEmpty, "\(near.statistics)")
        #expect(near.freeTransmitFrames(expecting: 1536) >= 1024)
      }
    }

    @Test("room for metadata in front of frames changes nothing for packets that ask for nothing")
    func metadata() throws {
      try PrivateNetwork.withVeth(mtu: 9000) { a, b in
        var asking = options(a, mtu: 9000)
        asking.checksums = .unchecked
        let near = try XDPPort(asking).openQueue(0)
        #expect(near.fillsChecksums && near.mode.contains("checksums: whoever comes next"))
        let far = try XDPPort(options(b, mtu: 9000)).openQueue(0)
        #expect(!far.fillsChecksums)
        let frames = (0..<60).map {
          frame(size: MultiBufferTests.sizes[$0 % MultiBufferTests.sizes.count], number: $0)
        }
        #expect(near.send(frames) == 60)
        #expect(far.collect(60) == frames)
        #expect(far.send(frames) == 60)
        #expect(near.collect(60) == frames)
        #expect(near.statistics.troubles.isEmpty, "\(near.statistics)")
        #expect(near.freeTransmitFrames(expecting: 1536) >= 1024)
      }
    }

    @Test("a packet is never split between two batches, however small their room")
    func batches() throws {
      try PrivateNetwork.withVeth(mtu: 9000) { a, b in
        let near = try XDPPort(options(a, mtu: 9000)).openQueue(0)
        let far = try XDPPort(options(b, mtu: 9000)).openQueue(0)
        let frames = (0..<20).map { frame(size: $0 % 3 == 0 ? 100 : 9000, number: $0) }
        #expect(near.send(frames) == 20)
        #expect(eventually { far.statistics["rx_waiting"] == 20 })
        var seen = 0
        for capacity in [3, 4, 5, 7].lazy.flatMap({ Array(repeating: $0, count: 10) })
        where seen < 20 {
          let batch = FrameBatch(capacity: capacity)
          far.receive(into: batch)
          #expect(batch.count > 0)
          #expect(unsafe !batch[batch.count - 1].continues)
          seen += batch.packetCount
          far.recycle(batch)
        }
        #expect(seen == 20)
      }
    }

    @Test("more packets than the rings hold go through, and none is lost to the budgets")
    func budgets() throws {
      try PrivateNetwork.withVeth(mtu: 9000) { a, b in
        var small = options(a, mtu: 9000)
        small.rings = XDPRingSizes(receive: 64, transmit: 32)
        let near = try XDPPort(small).openQueue(0)
        var other = options(b, mtu: 9000)
        other.rings = small.rings
        let far = try XDPPort(other).openQueue(0)
        for round in 0..<200 {
          let frames = (0..<10).map { frame(size: 9014, number: round * 10 + $0) }
          #expect(near.send(frames) == 10)
          #expect(far.collect(10) == frames)
        }
        #expect(near.freeTransmitFrames(expecting: 32) == 32)
      }
    }

    @Test("while the link is down no half of a packet is left in the ring")
    func linkDown() throws {
      try PrivateNetwork.withVeth(mtu: 9000) { a, b in
        var small = options(a, mtu: 9000)
        small.rings = XDPRingSizes(receive: 64, transmit: 64)
        let near = try XDPPort(small).openQueue(0)
        let far = try XDPPort(options(b, mtu: 9000)).openQueue(0)
        run("ip link set axt0 down")
        for number in 0..<100 {
          #expect(near.send([frame(size: 9014, number: number)]) == 1)
        }
        #expect(near.statistics["link_down"] == 99)
        run("ip link set axt0 up")
        let frames = (0..<15).map { frame(size: 9000 - $0, number: 1000 + $0) }
        #expect(near.send(frames) == 15)
        #expect(far.collect(16).suffix(15) == frames)
        #expect(near.freeTransmitFrames(expecting: 64) == 64)
      }
    }

    @Test("an invalid frame costs its whole packet, and no other")
    func invalid() throws {
      try PrivateNetwork.withVeth(mtu: 9000) { a, b in
        let near = try XDPPort(options(a, mtu: 9000)).openQueue(0)
        let far = try XDPPort(options(b, mtu: 9000)).openQueue(0)
        let batch = FrameBatch()
        near.reserve(9, into: batch)
        let packets = (0..<3).map { frame(size: 9000, number: $0) }
        for (i, packet) in packets.enumerated() { #expect(batch.write(packet, at: 3 * i) == 3) }
        unsafe batch[4].length = 0
        near.transmit(batch, count: 9)
        while near.flush() { usleep(100) }
        #expect(far.collect(2) == [packets[0], packets[2]])
        #expect(near.statistics["invalid_frames"] == 1)
        #expect(near.freeTransmitFrames(expecting: 1024) == 1024)
      }
    }

    @Test("packets that are larger than the port's MTU allows are dropped whole and counted")
    func tooLong() throws {
      try PrivateNetwork.withVeth(mtu: 9000) { a, b in
        let sender = try XDPPort(options(a, mtu: 9000)).openQueue(0)
        let receiver = try XDPPort(options(b, mtu: 4000)).openQueue(0)
        #expect(receiver.framesPerPacket == 2)
        let short = (0..<3).map { frame(size: 4014, number: $0) }
        sender.send([short[0], frame(size: 9000), short[1], frame(size: 7681), short[2]])
        #expect(receiver.collect(3) == short)
        #expect(receiver.statistics["rx_too_long"] == 2)
        sender.send(short)
        #expect(receiver.collect(3) == short)
      }
    }

    @Test("a batch is never empty while a packet waits, however many too large ones are before it")
    func behindTooLong() throws {
      try PrivateNetwork.withVeth(mtu: 9000) { a, b in
        let sender = try XDPPort(options(a, mtu: 9000)).openQueue(0)
        let receiver = try #require(
          try XDPPort(options(b, mtu: 4000)).openQueue(0) as? XDPQueue)
        let good = frame(size: 4014, number: 1)
        // Three entries each: more than two batches full.
        let tooLong = (0..<50).map { frame(size: 9000, number: $0) }
        #expect(sender.send(tooLong + [good]) == 51)
        for _ in 0..<5000 {
          let slots = receiver.socket.rings.value.receive.peek(152)
          receiver.socket.rings.value.receive.cancel(slots.count)
          if slots.count == 152 { break }
          usleep(1000)
        }
        let batch = FrameBatch()
        receiver.receive(into: batch)
        #expect(batch.packetCount == 1 && batch.count == 2)
        #expect(receiver.statistics["rx_too_long"] == 50)
        receiver.recycle(batch)
        receiver.receive(into: batch)
        #expect(batch.count == 0)
        receiver.countFrames()
        #expect(receiver.statistics["frames_in_use"] == 0)
      }
    }

    @Test("native XDP takes a veth whose peer sends more than a page", arguments: [3507, 9000])
    func nativePeer(mtu: Int) throws {
      try PrivateNetwork.withVeth(mtu: mtu) { a, _ in
        _ = try XDPPort(options(a, mode: .native, mtu: mtu)).openQueue(0)
      }
    }
  }
}
