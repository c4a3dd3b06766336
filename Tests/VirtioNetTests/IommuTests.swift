// A guest behind an IOMMU (ACCESS_PLATFORM): the front-end's part is played by the test.
import Glibc
import GuestDriver
import GuestMemory
import Linux
import Testing
import VirtioNet
import Virtqueue

private let bias = IommuGuest.bias
private let header = [UInt8](repeating: 0, count: 12)

@Suite("Behind an IOMMU", .timeLimit(.minutes(2)))
struct IommuTests {
  func page(_ guest: IommuGuest, _ bytes: [UInt8]) -> GuestAddress {
    let page = guest.page()
    guest.ram.write(bytes, at: page)
    return page
  }

  @Test("a packet waits for its translation, is asked for once, and is sent when it comes")
  func transmitMiss() throws {
    let guest = try IommuGuest()
    try guest.startMapped()
    let before = guest.iommu!.misses.count
    let place = page(guest, header + frame(60))
    guest.transmit([(place.value + bias, 72)])
    let asked = try guest.questions(1)
    #expect(asked == [.init(address: place.value + bias, permission: 1)])
    #expect(guest.takeTransmitted().isEmpty)
    #expect(guest.rings[1].queue.outstanding == 1)
    // Nobody asks again, however long it takes.
    usleep(200_000)
    #expect(try guest.iommu!.takeMisses().isEmpty)
    try guest.iommu!.push(place.value + bias)
    #expect(eventually { guest.takeTransmitted() == [frame(60)] })
    #expect(try eventually { try guest.rings[1].queue.nextUsed()?.length == 0 })
    #expect(guest.iommu!.misses.count == before + 1)
  }

  @Test("a received packet waits for the buffer's translation")
  func receiveMiss() throws {
    let guest = try IommuGuest()
    try guest.startMapped()
    let place = guest.page()
    guest.offer(place.value + bias, 2048)
    guest.port[0].inject([frame(100)])
    #expect(
      try eventually {
        try guest.iommu!.serve()
        return guest.iommu!.misses.last == .init(address: place.value + bias, permission: 2)
      })
    #expect(try eventually { try guest.rings[0].queue.nextUsed()?.length == 112 })
    #expect(guest.ram.read(GuestAddress(place.value + 12), count: 100) == frame(100))
  }

  @Test("a ring starts when its own pages are translated", arguments: [64, 1024])
  func ringMiss(size: Int) throws {
    let guest = try IommuGuest(ringSize: size)
    let place = page(guest, header + frame(60))
    guest.transmit([(place.value + bias, 72)])
    try guest.start(1)
    let queue = guest.rings[1].queue
    let asked = try guest.questions(3)
    #expect(
      asked == [
        .init(address: queue.descriptorTable.value + bias, permission: 1),
        .init(address: queue.availRing.value + bias, permission: 1),
        .init(address: queue.usedRing.value + bias, permission: 2),
      ])
    guest.mapAll()
    for miss in asked { try guest.iommu!.push(miss.address) }
    #expect(try guest.sends(frame(60)))
  }

  @Test("a buffer may lie over pages that are anywhere in guest memory, in any number of updates")
  func scatteredBuffer() throws {
    let guest = try IommuGuest()
    try guest.startMapped()
    let bytes = header + frame(1400)
    let pages = (0..<3).map { _ in guest.page(2) }
    // Contiguous for the device, in reverse order for the guest.
    let start: UInt64 = 0x7000_0000
    for (i, page) in pages.reversed().enumerated() {
      guest.iommu!.map(
        start + UInt64(4096 * i), size: 4096, to: guest.ram.frontEnd(of: page), .read)
    }
    // 12 bytes of header end one page; the packet goes over the next border too.
    let first = start + 4096 - 700
    guest.ram.write(bytes.prefix(700), at: GuestAddress(pages[2].value + 4096 - 700))
    guest.ram.write(bytes.dropFirst(700), at: pages[1])
    guest.transmit([(first, bytes.count)])
    #expect(
      try eventually {
        try guest.iommu!.serve()
        return guest.takeTransmitted() == [frame(1400)]
      })
    #expect(guest.iommu!.misses.suffix(2).map(\.address) == [first, start + 4096])
  }

  @Test("an indirect table is behind the IOMMU too")
  func indirect() throws {
    let guest = try IommuGuest()
    try guest.startMapped()
    let place = page(guest, header + frame(60))
    let table = guest.page()
    guest.ram.write(
      RawDescriptor(place.value + bias, 12, flags: 1, next: 1).bytes
        + RawDescriptor(place.value + bias + 12, 60).bytes, at: table)
    let ring = guest.rings[1]
    ring.queue.pokeChain([RawDescriptor(table.value + bias, 32, flags: DescriptorFlags.indirect)])
    ring.kick.signal()
    #expect(try guest.sends(frame(60)))
    #expect(
      guest.iommu!.misses.suffix(2) == [
        .init(address: table.value + bias, permission: 1),
        .init(address: place.value + bias, permission: 1),
      ])
  }

  @Test(
    "a chain at an address without translation is malformed, and the ring goes on",
    arguments: [true, false])
  func refused(honest: Bool) throws {
    let guest = try IommuGuest()
    try guest.startMapped()
    let place = page(guest, header + frame(60))
    guest.transmit([(0x1234_5000, 72)])
    guest.transmit([(place.value + bias, 72)])
    #expect(
      try eventually {
        try guest.iommu!.serve(honest: honest)
        return guest.takeTransmitted() == [frame(60)]
      })
    // The port has a packet before the ring has counted it.
    let counted =
      "transmit 0: chains 2, packets 1, bytes 60, calls 2, dropped_malformed_chain 1"
    #expect(eventually { guest.counters().contains(counted) }, "\(guest.counters())")
    #expect(
      guest.log.contains { $0.contains("no translation to read I/O virtual address 0x12345000") },
      "\(guest.log)")
    #expect(try guest.rings[1].queue.allUsed().count == 2)
  }

  @Test("a permission is kept: no reading where only writing is allowed, nor the other way round")
  func permissions() throws {
    let guest = try IommuGuest()
    try guest.startMapped()
    let secret = page(guest, header + frame(60))
    guest.iommu!.map(0x5000_0000, size: 4096, to: guest.ram.frontEnd(of: secret), .write)
    guest.iommu!.map(0x6000_0000, size: 4096, to: guest.ram.frontEnd(of: secret), .read)
    // The back-end knows both pages, but not so.
    try guest.iommu!.push(0x5000_0000)
    try guest.iommu!.push(0x6000_0000)
    guest.transmit([(0x5000_0000, 72)])
    guest.offer(0x6000_0000, 2048)
    let good = guest.page()
    guest.offer(good.value + bias, 2048)
    guest.port[0].inject([frame(100)])
    #expect(
      try eventually {
        try guest.iommu!.serve()
        return try guest.rings[0].queue.allUsed().last?.length == 112
      })
    #expect(guest.ram.read(secret, count: 72) == header + frame(60))
    #expect(try eventually { try guest.rings[1].queue.nextUsed() != nil })
    #expect(guest.takeTransmitted().isEmpty)
    #expect(
      eventually { guest.counters().contains("dropped_malformed_chain 1") }, "\(guest.counters())")
    #expect(eventually { guest.counters().contains("malformed_buffers 1") }, "\(guest.counters())")
  }

  @Test("after an invalidation is acknowledged, nothing that was there before is read")
  func invalidateTransmit() throws {
    let guest = try IommuGuest()
    try guest.startMapped()
    let address: UInt64 = 0x5000_0000
    let poison = [UInt8](repeating: 0xee, count: 72)
    var pages = [guest.page(), guest.page()]
    var sent = 0
    for round in 0..<60 {
      let marked = [UInt8](repeating: UInt8(round), count: 60)
      guest.ram.write(header + marked, at: pages[0])
      guest.iommu!.map(address, size: 4096, to: guest.ram.frontEnd(of: pages[0]))
      for _ in 0..<8 { guest.transmit([(address, 72)]) }
      // Some of them are on their way while the translation goes.
      if round % 3 == 0 { usleep(500) }
      try guest.iommu!.serve()
      try guest.iommu!.unmap(address, size: 4096)
      // From here on this page is somebody else's.
      guest.ram.write(poison, at: pages[0])
      pages.swapAt(0, 1)
      guest.ram.write(header + marked, at: pages[0])
      guest.iommu!.map(address, size: 4096, to: guest.ram.frontEnd(of: pages[0]))
      #expect(
        try eventually {
          try guest.iommu!.serve()
          sent += try guest.rings[1].queue.allUsed().count
          return sent == 8 * (round + 1)
        })
      // The driver has its buffers back before the port has flushed.
      var frames: [[UInt8]] = []
      #expect(
        eventually {
          frames += guest.takeTransmitted()
          return frames.count == 8
        })
      #expect(frames.allSatisfy { $0 == marked }, "round \(round)")
      try guest.iommu!.unmap(address, size: 4096)
    }
    #expect(guest.port[0].transmittedCount == 480)
  }

  @Test("after an invalidation is acknowledged, nothing is written where it was before")
  func invalidateReceive() throws {
    let guest = try IommuGuest()
    try guest.startMapped()
    let address: UInt64 = 0x5000_0000
    var pages = [guest.page(), guest.page()]
    var received = 0
    for round in 0..<60 {
      guest.iommu!.map(address, size: 4096, to: guest.ram.frontEnd(of: pages[0]), .write)
      for _ in 0..<8 { guest.offer(address, 2048) }
      guest.port[0].inject((0..<8).map { _ in frame(200) })
      if round % 3 == 0 { usleep(500) }
      try guest.iommu!.serve()
      try guest.iommu!.unmap(address, size: 4096)
      let poison = [UInt8](repeating: UInt8(round), count: 300)
      guest.ram.write(poison, at: pages[0])
      pages.swapAt(0, 1)
      guest.iommu!.map(address, size: 4096, to: guest.ram.frontEnd(of: pages[0]), .write)
      #expect(
        try eventually {
          try guest.iommu!.serve()
          received += try guest.rings[0].queue.allUsed().count
          return received == 8 * (round + 1)
        })
      #expect(guest.ram.read(pages[1], count: 300) == poison, "round \(round)")
      try guest.iommu!.unmap(address, size: 4096)
    }
  }

  @Test("a ring whose own page goes is not touched any more, and goes on where it is mapped next")
  func invalidateRing() throws {
    let guest = try IommuGuest()
    try guest.startMapped()
    let place = page(guest, header + frame(60))
    guest.transmit([(place.value + bias, 72)])
    #expect(
      try eventually {
        try guest.iommu!.serve()
        return guest.takeTransmitted().count == 1
      })
    let used = guest.rings[1].queue.usedRing.value
    let start = used / 4096 * 4096
    try guest.iommu!.unmap(start + bias, size: 4096)
    let asked = try guest.iommu!.takeMisses()
    #expect(asked.contains(.init(address: used + bias, permission: 2)))
    let before = guest.ram.read(GuestAddress(start), count: 4096)
    guest.transmit([(place.value + bias, 72)])
    usleep(50_000)
    // Only the driver's own writes are there.
    #expect(guest.takeTransmitted().isEmpty)
    #expect(
      guest.ram.read(GuestAddress(used), count: 4)
        == Array(before[Int(used - start)..<Int(used - start) + 4]))
    guest.mapAll()
    try guest.iommu!.push(start + bias)
    #expect(try guest.sends(frame(60)))
  }

  @Test("an update that says the same again does not disturb a ring")
  func sameAgain() throws {
    let guest = try IommuGuest()
    try guest.startMapped()
    let used = guest.rings[1].queue.usedRing.value + bias
    let misses = guest.iommu!.misses.count
    for _ in 0..<10 { try guest.iommu!.push(used) }
    let place = page(guest, header + frame(60))
    guest.transmit([(place.value + bias, 72)])
    #expect(try guest.sends(frame(60)))
    #expect(guest.iommu!.misses.count <= misses + 1)
  }

  @Test("updates that cannot be are refused, and traffic goes on")
  func hostileUpdates() throws {
    let guest = try IommuGuest()
    try guest.startMapped()
    let iommu = guest.iommu!
    let start = guest.ram.descriptions[0].frontEnd.value
    #expect(try iommu.send(type: 2, 0x5000_0000, size: 0, to: start, permission: 3) == 1)
    #expect(try iommu.send(type: 2, 0x5000_0000, size: 4096, to: 0x1000, permission: 3) == 1)
    #expect(try iommu.send(type: 2, 0x5000_0000, size: 1 << 40, to: start, permission: 3) == 1)
    #expect(try iommu.send(type: 2, 0x5000_0000, size: 4096, to: start, permission: 0) == 1)
    #expect(try iommu.send(type: 2, .max - 100, size: 4096, to: start, permission: 3) == 1)
    for type in [0, 1, 4, 5, 255] as [UInt8] {
      #expect(try iommu.send(type: type, 0, size: 4096, to: start, permission: 3) == 1)
    }
    let place = page(guest, header + frame(60))
    guest.transmit([(place.value + bias, 72)])
    #expect(try guest.sends(frame(60)))
  }

  @Test("a front-end that never answers costs the rings that wait, and may stop them")
  func neverAnswered() throws {
    let guest = try IommuGuest(pairs: 2)
    try guest.startMapped()
    let place = page(guest, header + frame(60))
    guest.transmit([(0x1234_5000, 72)])
    usleep(20_000)
    guest.transmit([(place.value + bias, 72)], pair: 1)
    // The other pair's page is pushed; the question of the first pair is left alone.
    try guest.iommu!.push(place.value + bias)
    #expect(eventually { guest.port[1].takeTransmitted() == [frame(60)] })
    #expect(try guest.frontEnd.vringBase(1) == 0)
    #expect(try guest.frontEnd.vringBase(3) == 1)
  }

  @Test("without REPLY_ACK the update is all that comes")
  func withoutReplies() throws {
    let guest = try IommuGuest(repliesToMisses: false)
    try guest.startMapped()
    for round in 0..<5 {
      let place = page(guest, header + frame(60 + round))
      guest.transmit([(place.value + bias, 72 + round)])
      #expect(
        try eventually {
          try guest.iommu!.serve()
          return guest.takeTransmitted() == [frame(60 + round)]
        })
      try guest.iommu!.unmap(place.value + bias, size: 4096)
      guest.transmit([(place.value + bias, 72 + round)])
      guest.mapAll()
      #expect(
        try eventually {
          try guest.iommu!.serve()
          return guest.takeTransmitted() == [frame(60 + round)]
        })
    }
  }

  @Test("a front-end that leaves while a ring waits costs its session")
  func leaves() throws {
    for ring in [false, true] {
      let guest = try IommuGuest()
      if ring {
        try guest.start(1)
      } else {
        try guest.startMapped()
        guest.transmit([(0x1234_5000, 72)])
      }
      usleep(10_000)
    }
  }

  @Test("what is no reply ends the channel, not the session")
  func badChannel() throws {
    let guest = try IommuGuest()
    try guest.startMapped()
    try guest.iommu!.sendOverChannel([UInt8](repeating: 0xff, count: 64))
    let place = page(guest, header + frame(60))
    guest.transmit([(place.value + bias, 72)])
    usleep(20_000)
    try guest.iommu!.push(place.value + bias)
    #expect(eventually { guest.takeTransmitted() == [frame(60)] })
  }
}
