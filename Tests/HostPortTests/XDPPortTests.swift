import CBPF
import Glibc
import Linux
import Packet
import SharedRing
import Testing

@testable import AFXDP
@testable import HostPort

extension OnInterfaces {
  @Suite struct XDPPortTests {
    @Test(
      "frames of every size arrive whole and in order",
      arguments: [XDPModeChoice.native, .skb])
    func roundTrip(mode: XDPModeChoice) throws {
      try PrivateNetwork.withVeth { a, b in
        let near = try XDPPort(options(a, mode: mode)).openQueue(0)
        let far = try XDPPort(options(b, mode: mode)).openQueue(0)
        #expect(far.mode.hasPrefix(mode == .native ? "native, copy" : "skb, copy"))
        var sent: [[UInt8]] = []
        for number in 0..<600 { sent.append(frame(size: 60 + number * 7 % 1455, number: number)) }
        // In portions that the RX ring holds, both ways.
        for portion in stride(from: 0, to: sent.count, by: 200) {
          let frames = Array(sent[portion..<portion + 200])
          #expect(near.send(frames) == 200)
          #expect(far.collect(200) == frames)
          #expect(far.send(frames) == 200)
          #expect(near.collect(200) == frames)
        }
        #expect(near.statistics.troubles.isEmpty, "\(near.statistics)")
      }
    }

    @Test("where the kernel polls for who looks, frames arrive, and the queue says so")
    func busyPolling() throws {
      try PrivateNetwork.withVeth { a, b in
        var polling = options(a, mode: .native)
        polling.busyPolling = true
        let near = try XDPPort(polling).openQueue(0)
        let far = try XDPPort(options(b, mode: .native)).openQueue(0)
        #expect(near.mode.hasSuffix("the kernel polls when the worker looks"))
        #expect(!far.mode.contains("polls"))
        for round in 0..<20 {
          let frames = (0..<20).map { frame(number: round * 20 + $0) }
          #expect(far.send(frames) == 20)
          #expect(near.collect(20) == frames)
          #expect(near.send(frames) == 20)
          #expect(far.collect(20) == frames)
        }
      }
    }

    @Test("more frames than either ring has places go through, and none is lost to the budgets")
    func budgets() throws {
      try PrivateNetwork.withVeth { a, b in
        var small = options(a)
        small.rings = XDPRingSizes(receive: 64, transmit: 32)
        let near = try XDPPort(small).openQueue(0)
        var other = options(b)
        other.rings = small.rings
        let far = try XDPPort(other).openQueue(0)
        for round in 0..<200 {
          let frames = (0..<30).map { frame(number: round * 30 + $0) }
          #expect(near.send(frames) == 30)
          #expect(far.collect(30) == frames)
        }
        #expect(near.freeTransmitFrames(expecting: 32) == 32)
        // A receiver that keeps frames gets the rest all the same, up to its budget.
        let kept = FrameBatch(capacity: 256)
        var numbers = 0
        while kept.count < 200, numbers < 400 {
          near.send([frame(number: numbers)])
          numbers += 1
          usleep(200)
          far.receive(into: kept)
        }
        #expect(kept.count == 200)
        far.recycle(kept)
        let last = frame(size: 100, number: 9999)
        near.send([last])
        // Some may have been on their way still.
        #expect(far.collect(numbers - 200 + 1).last == last)
      }
    }

    @Test("a flood fills the RX ring, is counted by the kernel, and leaves the queue working")
    func flood() throws {
      try PrivateNetwork.withVeth { a, b in
        let near = try XDPPort(options(a)).openQueue(0)
        let far = try XDPPort(options(b)).openQueue(0)
        for _ in 0..<50 { near.send((0..<100).map { frame(number: $0) }) }
        usleep(50_000)
        // Receive ring 2048, fill ring 2048: what does not fit is dropped.
        let got = far.collect(5000, milliseconds: 500)
        #expect(got.count >= 2048 && got.count < 5000)
        let statistics = far.statistics
        let lost = (statistics["rx_ring_full"] ?? 0) + (statistics["rx_dropped"] ?? 0)
        #expect(lost + UInt64(got.count) == 5000, "\(statistics)")
        #expect(statistics["rx_packets"] == UInt64(got.count), "\(statistics)")
        #expect(statistics["rx_waiting"] == 0 && near.statistics["tx_packets"] == 5000)
        near.send([frame(size: 200, number: 77)])
        #expect(far.collect(1) == [frame(size: 200, number: 77)])
      }
    }

    @Test(
      "with guest addresses, unicast to them and all multicast is taken, the rest is the kernel's",
      arguments: [XDPModeChoice.native, .skb])
    func steering(mode: XDPModeChoice) throws {
      try PrivateNetwork.withVeth { a, b in
        var steered = options(a, mode: mode)
        let guest: [UInt8] = [2, 0, 0, 0, 0, 0xaa]
        let second: [UInt8] = [2, 0, 0, 0, 0, 0xab]
        steered.addresses = [
          try #require(MACAddress(bytes: guest)), try #require(MACAddress(bytes: second)),
        ]
        let queue = try XDPPort(steered).openQueue(0)
        let kernel = try PacketSocket(a)
        let wire = try XDPPort(options(b, mode: mode)).openQueue(0)
        let other: [UInt8] = [2, 0, 0, 0, 0, 0xac]
        let frames = [
          frame(to: guest, number: 1), frame(to: other, number: 2),
          frame(to: [0xff, 0xff, 0xff, 0xff, 0xff, 0xff], number: 3),
          frame(to: [0x33, 0x33, 0, 0, 0, 1], number: 4), frame(to: second, number: 5),
          frame(to: other, number: 6),
        ]
        wire.send(frames)
        #expect(queue.collect(4) == [0, 2, 3, 4].map { frames[$0] })
        #expect(kernel.collect(atLeast: 2) == [frames[1], frames[5]])
      }
    }

    @Test("a queue without a socket leaves its frames to the kernel")
    func noSocket() throws {
      try PrivateNetwork.withVeth { a, b in
        let port = try XDPPort(options(a))
        let kernel = try PacketSocket(a)
        let wire = try XDPPort(options(b)).openQueue(0)
        wire.send([frame(number: 1)])
        #expect(kernel.collect(atLeast: 1) == [frame(number: 1)])
        _ = port
      }
    }

    @Test("a transmitting guest does not stop while the link is down, and goes on when it is up")
    func linkDown() throws {
      try PrivateNetwork.withVeth { a, b in
        var small = options(a)
        small.rings = XDPRingSizes(receive: 64, transmit: 64)
        let near = try XDPPort(small).openQueue(0)
        let far = try XDPPort(options(b)).openQueue(0)
        run("ip link set axt0 down")
        for number in 0..<200 { #expect(near.send([frame(number: number)]) == 1) }
        #expect(near.statistics["link_down"] == 199)
        run("ip link set axt0 up")
        let frames = (0..<50).map { frame(number: 1000 + $0) }
        #expect(near.send(frames) == 50)
        #expect(far.collect(51).suffix(50) == frames)
        #expect(near.freeTransmitFrames(expecting: 64) == 64)
      }
    }

    @Test("frames that the device refuses are counted and their memory comes back")
    func refused() throws {
      try PrivateNetwork.withVeth { a, _ in
        let near = try XDPPort(options(a)).openQueue(0)
        run("ip link set axt1 down")
        #expect(near.send((0..<200).map { frame(number: $0) }) == 200)
        #expect(near.statistics["device_refused"] == 200)
        #expect(near.freeTransmitFrames(expecting: 1024) == 1024)
      }
    }

    @Test(
      "an entry of the RX ring that names no memory of ours costs its packet, and counts",
      arguments: [1500, 9000])
    func stray(mtu: Int) throws {
      try PrivateNetwork.withVeth(mtu: mtu) { a, b in
        let near = try XDPPort(options(a, mtu: mtu)).openQueue(0)
        let far = try #require(try XDPPort(options(b, mtu: mtu)).openQueue(0) as? XDPQueue)
        let frames = (0..<3).map { frame(number: $0) }
        near.send(frames)
        #expect(eventually { far.statistics["rx_waiting"] == 3 })
        let ring = far.socket.rings.value.receive
        let second = Int((ring.peeked &+ 1) & (ring.size &- 1))
        unsafe ring.memory.entries.storeRelaxed64(16 * second, .max)
        #expect(far.collect(2) == [frames[0], frames[2]])
        #expect(far.statistics["rx_packets"] == 3 && far.statistics["rx_stray"] == 1)
        #expect(far.statistics["rx_too_long"] == 0)
      }
    }

    @Test("frames that no driver takes never reach the ring")
    func invalidFrames() throws {
      try PrivateNetwork.withVeth { a, b in
        let near = try XDPPort(options(a)).openQueue(0)
        let far = try XDPPort(options(b)).openQueue(0)
        let batch = FrameBatch()
        near.reserve(3, into: batch)
        for (i, length) in [UInt32(0), 60, 5000].enumerated() {
          let bytes = frame(number: i)
          unsafe batch[i].data.copyMemory(from: bytes, byteCount: 60)
          unsafe batch[i].length = length
        }
        near.transmit(batch, count: 3)
        while near.flush() { usleep(100) }
        #expect(far.collect(1) == [frame(number: 1)])
        #expect(far.collect(1, milliseconds: 50) == [])
        #expect(near.statistics["invalid_frames"] == 2)
        #expect(near.statistics["tx_invalid_descs"] == 0)
        #expect(near.freeTransmitFrames(expecting: 1024) == 1024)
      }
    }
  }
}
