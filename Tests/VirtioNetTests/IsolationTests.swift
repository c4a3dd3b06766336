// Two guests, one after the other, at the same daemon: frames are used again, and nothing that the
// first has put into them, nor what was under way for it, reaches the second, or leaves with it.
//
// The first guest's packets are made of one byte, which nothing else here has.
import AFXDP
import Glibc
import GuestDriver
import GuestMemory
import HostPort
import Testing
import Virtqueue

@testable import VirtioNet

private let marker: UInt8 = 0xa7
/// What guest memory is full of that nobody has written to.
private let untouched: UInt8 = 0x5c

private let offloads: VirtioFeatures = [.csum, .hostTSO4, .hostTSO6, .hostECN, .hostUSO]

/// A frame without a marker in it.
private func clean(_ length: Int, _ number: Int = 0) -> [UInt8] {
  let head: [UInt8] = [2, 0, 0, 0, 0, 2, 2, 0, 0, 0, 0, 1, 0x88, 0xb5]
  return Array((head + (0..<length).map { UInt8(($0 &* 7 &+ number) % 90) }).prefix(length))
}

private func marked(_ length: Int) -> [UInt8] { [UInt8](repeating: marker, count: length) }

/// Four markers in a row are no accident.
private func isMarked(_ bytes: [UInt8]) -> Bool {
  bytes.split { $0 != marker }.contains { $0.count >= 4 }
}

/// A guest at a port queue.
private final class Visit {
  let ram: GuestRAM
  let features: VirtioFeatures
  let transmit: VirtioNet.TransmitPath
  let receive: ReceivePath
  private let feed: ReceiveFeed
  private let drivers: [any RingDriver]
  private var buffers: [UInt16: [DriverQueue.Buffer]] = [:]

  init(_ feed: ReceiveFeed, _ features: VirtioFeatures) throws {
    self.feed = feed
    self.features = features.union([.version1, .ringIndirectDesc])
    let ram = try GuestRAM(bytes: 16 << 20)
    let area = unsafe ram.pointer(GuestAddress(0), length: 16 << 20)
    unsafe area.initializeMemory(as: UInt8.self, repeating: untouched, count: 16 << 20)
    let memory = try ram.memory()
    let features = self.features
    drivers = (0..<2).map { _ in ringDriver(in: ram, size: 512, features: features) }
    receive = try ReceivePath(
      drivers[0].config(index: 0, memory: memory), counters: RingCounters())
    transmit = try TransmitPath(
      drivers[1].config(index: 1, memory: memory), port: feed.port, counters: RingCounters())
    self.ram = ram
    feed.route(to: receive)
  }

  /// The front-end leaves.
  func leave() {
    feed.route(to: nil)
    feed.forget()
  }

  func send(_ frames: [[UInt8]], header: [UInt8] = [UInt8](repeating: 0, count: 12)) throws {
    for frame in frames {
      let address = ram.allocate(header.count + frame.count)
      let bytes = header + frame
      unsafe bytes.withUnsafeBytes {
        unsafe ram.pointer(address, length: bytes.count).copyMemory(
          from: $0.baseAddress!, byteCount: bytes.count)
      }
      drivers[1].add([.init(address, UInt32(header.count + frame.count))])
      drivers[1].publish()
      while transmit.run() > 0 { for _ in 0..<100 where feed.port.flush() { usleep(50) } }
      _ = try drivers[1].allUsed()
    }
  }

  /// Sees to it that there are as many.
  func giveBuffers(_ count: Int, of lengths: [Int]) throws {
    while drivers[0].outstanding < count {
      let placed = ChainLayout("", lengths).place(in: ram, writable: true)
      buffers[try #require(drivers[0].add(placed))] = placed
    }
    drivers[0].publish()
  }

  func pump() { while feed.turn() > 0 {} }

  /// Header and bytes of each packet that came.  Nothing behind what was said to be written may have
  /// been touched.
  func collect() throws -> [(header: [UInt8], frame: [UInt8])] {
    var packets: [(header: [UInt8], frame: [UInt8])] = []
    while let first = try drivers[0].nextUsed() {
      var bytes = try written(first)
      let count = features.contains(.mrgRxbuf) ? Int(bytes[10]) | Int(bytes[11]) << 8 : 1
      for _ in 1..<count { bytes += try written(try #require(try drivers[0].nextUsed())) }
      packets.append((Array(bytes.prefix(12)), Array(bytes.dropFirst(12))))
    }
    return packets
  }

  private func written(_ element: DriverQueue.UsedElement) throws -> [UInt8] {
    var all: [UInt8] = []
    for buffer in try #require(buffers[element.head]) { unsafe all += bytes(buffer) }
    let rest = all.count - Int(element.length)
    #expect(all.suffix(rest).elementsEqual(repeatElement(untouched, count: rest)))
    return Array(all.prefix(Int(element.length)))
  }

  /// Whether a marker is anywhere in its memory.
  var isMarked: Bool {
    var place = unsafe UnsafeRawPointer(ram.pointer(GuestAddress(0), length: 16 << 20))
    let end = unsafe place + (16 << 20) - 4
    while unsafe place <= end, let found = unsafe memchr(place, Int32(marker), end - place + 1) {
      let word = unsafe found.loadUnaligned(as: UInt32.self)
      if word == UInt32(marker) &* 0x0101_0101 { return true }
      unsafe place = UnsafeRawPointer(found) + 1
    }
    return false
  }

  private func bytes(_ buffer: DriverQueue.Buffer) -> UnsafeRawBufferPointer {
    unsafe UnsafeRawBufferPointer(
      start: ram.pointer(buffer.address, length: Int(buffer.length)), count: Int(buffer.length))
  }
}

@Suite("One guest does not see another's frames")
struct IsolationTests {
  private static func scripted(
    _ change: (inout ScriptedPort.Options) -> Void = { _ in }
  ) throws -> ScriptedPortQueue {
    var options = ScriptedPort.Options()
    options.transmitFrames = 600
    change(&options)
    return try ScriptedPort(options).queues[0]
  }

  /// A queue that a guest has used all frames of, and has left.
  private static func used(
    _ change: (inout ScriptedPort.Options) -> Void = { _ in }
  ) throws -> (queue: ScriptedPortQueue, feed: ReceiveFeed) {
    let queue = try scripted(change)
    let feed = ReceiveFeed(queue, counters: RingCounters())
    let first = try Visit(feed, [.mrgRxbuf])
    try first.giveBuffers(20, of: [1600])
    queue.inject((0..<20).map { _ in marked(500) })
    first.pump()
    try first.send((0..<20).map { _ in marked(500) })
    #expect(try first.collect().count == 20 && queue.takeTransmitted().count == 20)
    first.leave()
    queue.fillMemory(with: marker)
    return (queue, feed)
  }

  @Test(
    "a guest receives what came, of any length, and its buffers are not touched behind that",
    arguments: [
      ([], [1600]), (.mrgRxbuf, [1600]), (.mrgRxbuf, [100]), ([.mrgRxbuf, .ringPacked], [60, 90]),
      ([], [12, 1600]),
    ] as [(VirtioFeatures, [Int])], [2048, 500])
  func receive(layout: (features: VirtioFeatures, lengths: [Int]), frameSize: Int) throws {
    let (queue, feed) = try IsolationTests.used {
      $0.frameSize = frameSize
      $0.framesPerPacket = 4
    }
    let second = try Visit(feed, layout.features)
    let came = (Array(14...80) + [100, 499, 500, 501, 1499, 1588]).enumerated().map {
      clean($1, $0)
    }
    var got: [(header: [UInt8], frame: [UInt8])] = []
    for frame in came {
      try second.giveBuffers(20, of: layout.lengths)
      queue.inject([frame])
      second.pump()
      got += try second.collect()
    }
    #expect(got.map(\.frame) == came)
    #expect(got.allSatisfy { $0.header.prefix(10).allSatisfy { $0 == 0 } })
    #expect(!second.isMarked)
    #expect(queue.problems.isEmpty)
  }

  @Test("a guest receives merged packets that have nothing but what came")
  func receiveMerged() throws {
    var generator = SeededGenerator(seed: 4)
    for kind in WireFlow.Kind.allCases {
      let (queue, feed) = try IsolationTests.used()
      let second = try Visit(feed, .merging)
      try second.giveBuffers(100, of: [700])
      var flow = WireFlow(kind, using: &generator)
      // Ethernet pads the last one; the padding is nobody's.
      let came = (0..<10).map { i in flow.next(Array(clean(i < 9 ? 400 : 1, i))) }
      queue.inject(came.map { $0 + marked(max(0, 60 - $0.count)) })
      second.pump()
      let got = try second.collect()
      try #require(got.count == 1 && got[0].header[1] != 0, "\(kind)")
      #expect(WireFlow.cut(got[0].header, got[0].frame) == came)
      #expect(!isMarked(got[0].frame) && !second.isMarked)
    }
  }

  @Test(
    "what a guest sends leaves as it would from frames that nobody has used",
    arguments: [0, 1, 2, 3])
  func transmit(port: Int) throws {
    func change(_ options: inout ScriptedPort.Options) {
      switch port {
      case 1: (options.frameSize, options.framesPerPacket) = (500, 4)
      case 2: options.fillsChecksums = true
      case 3: options.bulkLane = BulkLane(leastSegments: 4, mtu: 1500)
      default: break
      }
    }
    let fresh = try IsolationTests.scripted(change)
    let (queue, feed) = try IsolationTests.used(change)
    var left: [[[UInt8]]] = []
    for (queue, feed) in [(fresh, ReceiveFeed(fresh, counters: RingCounters())), (queue, feed)] {
      let guest = try Visit(feed, offloads)
      var generator = SeededGenerator(seed: 5)
      try guest.send((Array(14...80) + [499, 500, 501, 1000, 1588]).map { clean($0) })
      for kind in OffloadPacket.Kind.allCases {
        for cut in [false, true] {
          for payload in [1, 100, 700, cut ? 5000 : 1000] {
            let packet = OffloadPacket(
              kind, cut: cut, payload: payload, segmentSize: 600, using: &generator)
            try guest.send([packet.bytes], header: packet.header)
          }
        }
      }
      left.append(queue.takeTransmitted() + queue.takeUncut().map(\.bytes))
      #expect(queue.problems.isEmpty && queue.isComplete)
    }
    #expect(left[0].count > 100)
    #expect(left[0] == left[1])
    #expect(!left[1].contains(where: isMarked))
  }

  @Test("reflect: gives each guest its own packets, of any length")
  func reflect() throws {
    let queue = try ReflectPort().openQueue(0)
    let feed = ReceiveFeed(queue, counters: RingCounters())
    let first = try Visit(feed, .mrgRxbuf)
    // All frames that can be on their way, and as many again.
    try first.send((0..<1100).map { _ in marked(1500) })
    first.leave()
    let second = try Visit(feed, .mrgRxbuf)
    let sent = (Array(14...80) + [100, 1514]).map { clean($0) }
    try second.giveBuffers(100, of: [1600])
    for frame in sent {
      try second.send([frame])
      second.pump()
    }
    #expect(try second.collect().map(\.frame) == sent)
    #expect(!second.isMarked)
  }

  @Test("what was under way for a guest that left does not reach one that comes at once")
  func underWay() throws {
    let scripted = try IsolationTests.scripted()
    for queue in [scripted, try ReflectPort().openQueue(0)] as [any HostPortQueue] {
      let counters = RingCounters()
      let feed = ReceiveFeed(queue, counters: counters)
      let first = try Visit(feed, .mrgRxbuf)
      // Without buffers of its own: 64 are with the feed, the others with the port.
      if queue === scripted {
        scripted.inject((0..<100).map { _ in marked(60) })
      } else {
        try first.send((0..<100).map { _ in marked(60) })
      }
      first.pump()
      #expect(feed.heldCount == 64)
      first.leave()
      #expect(counters.dropped(.noGuest) == 100)
      // What comes before the next guest is there is not for it either.
      scripted.inject([marked(60)])
      let second = try Visit(feed, .mrgRxbuf)
      try second.giveBuffers(200, of: [1600])
      second.pump()
      #expect(try second.collect().isEmpty && !second.isMarked)
    }
  }

  @Test("a session's end is the end of what waits for its guest")
  func session() throws {
    let guest = try Guest()
    guest.start(0)
    guest.port[0].inject((0..<3).map { _ in marked(60) })
    #expect(eventually { guest.port[0].framesInDataPath == 3 })
    _ = guest.device.stopQueue(0)
    guest.device.frontEndLeft()
    guest.start(0)
    guest.giveBuffers(8)
    guest.port[0].inject([clean(99)])
    #expect(try eventually { try guest.drivers[0].nextUsed()?.length == 111 })
    #expect(Accounts(guest.device.settledReport).sum("receive", "dropped_no_guest") == 3)
  }

  @Test(
    "frames of a real interface, of any length, are what was sent, and nothing behind them",
    .enabled(if: VethPair.isAvailable, "network namespaces need root"),
    arguments: [ChecksumChoice.daemon, .unchecked])
  func interface(checksums: ChecksumChoice) throws {
    // Without a MAC address of its own no end answers.
    try VethPair.with { pair in
      var options = pair.near
      (options.bulkLane, options.checksums) = (.off, checksums)
      options.rings = XDPRingSizes(receive: 64, transmit: 64)
      let near = try XDPPort(options).openQueue(0)
      let far = try pair.farQueue()
      let feed = ReceiveFeed(near, counters: RingCounters())
      let farFeed = ReceiveFeed(far, counters: RingCounters())
      let other = try Visit(farFeed, .mrgRxbuf)
      let first = try Visit(feed, .mrgRxbuf)
      /// One guest sends, the other one gets all of it.
      func pass(_ frames: [[UInt8]], from sender: Visit, to receiver: Visit) throws -> [[UInt8]] {
        var got: [[UInt8]] = []
        for frame in frames {
          try receiver.giveBuffers(2, of: [1800])
          try sender.send([frame])
          let before = got.count
          _ = try eventually {
            receiver.pump()
            got += try receiver.collect().map(\.frame)
            return got.count > before
          }
        }
        return got
      }
      // More than there are frames, both ways.
      let many = (0..<700).map { _ in marked(1500) }
      #expect(try pass(many, from: first, to: other).count == 700)
      #expect(try pass(many, from: other, to: first).count == 700)
      first.leave()
      other.leave()
      let second = try Visit(feed, .mrgRxbuf)
      let another = try Visit(farFeed, .mrgRxbuf)
      let frames = (Array(14...80) + [100, 1500]).map { clean($0) }
      #expect(try pass(frames, from: second, to: another) == frames)
      #expect(try pass(frames, from: another, to: second) == frames)
      #expect(!second.isMarked && !another.isMarked)
    }
  }
}
