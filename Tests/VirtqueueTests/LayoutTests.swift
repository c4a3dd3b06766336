// The same bytes, whatever the layout.
import GuestDriver
import GuestMemory
import Testing
import Virtqueue

@Suite("Descriptor layouts")
struct LayoutTests {
  /// Borders for every layout, and room for an indirect table of a descriptor a byte.
  static func ram() throws -> GuestRAM { try GuestRAM.withBorders(count: 8, regionBytes: 65536) }

  @Test(
    "every transmit layout gives the bytes of the packet",
    arguments: [(10, 60), (12, 60), (12, 1514)], Rig.formats)
  func transmit(lengths: (header: Int, payload: Int), format: VirtioFeatures) throws {
    let (headerLength, payloadLength) = lengths
    let packet = pattern(headerLength + payloadLength)
    for layout in ChainLayout.all(headerLength: headerLength, payloadLength: payloadLength)
    where layout.exists(with: format) {
      let rig = try Rig(LayoutTests.ram(), features: format, shuffled: 7)
      let buffers = layout.place(in: rig.ram)
      rig.ram.scatter(packet, over: buffers)
      let head = try #require(rig.ring.add(buffers, direct: layout.direct), "\(layout)")
      rig.ring.publish()
      #expect(rig.transmit() == .bytes(packet), "\(layout)")
      #expect(try rig.ring.nextUsed() == .init(head: head, length: 0), "\(layout)")
      #expect(rig.ring.freeDescriptors == 256)
    }
  }

  @Test(
    "every receive layout takes header and payload, written apart",
    arguments: [(10, 60), (12, 60), (12, 1514)], Rig.formats)
  func receive(lengths: (header: Int, payload: Int), format: VirtioFeatures) throws {
    let (headerLength, payloadLength) = lengths
    let packet = pattern(headerLength + payloadLength)
    let parts = [Array(packet.prefix(headerLength)), Array(packet.dropFirst(headerLength))]
    for layout in ChainLayout.all(headerLength: headerLength, payloadLength: payloadLength)
    where layout.exists(with: format) {
      let rig = try Rig(LayoutTests.ram(), features: format, shuffled: 8)
      let buffers = layout.place(in: rig.ram, writable: true)
      let head = try #require(rig.ring.add(buffers, direct: layout.direct), "\(layout)")
      rig.ring.publish()
      #expect(rig.receive(parts) == .some(nil), "\(layout)")
      #expect(rig.ram.gather(buffers) == packet, "\(layout)")
      #expect(
        try rig.ring.nextUsed() == .init(head: head, length: UInt32(packet.count)), "\(layout)")
    }
  }

  @Test("any window of any layout can be copied out", arguments: Rig.formats)
  func windows(format: VirtioFeatures) throws {
    let packet = pattern(12 + 30)
    for layout in ChainLayout.all(headerLength: 12, payloadLength: 30)
    where layout.exists(with: format) {
      let rig = try Rig(LayoutTests.ram(), features: format)
      let buffers = layout.place(in: rig.ram)
      rig.ram.scatter(packet, over: buffers)
      rig.ring.add(buffers, direct: layout.direct)
      rig.ring.publish()
      #expect(rig.defect() == nil)
      #expect(rig.readable.byteCount == packet.count)
      for offset in 0..<packet.count {
        for length in [1, 2, 13, packet.count - offset] where offset + length <= packet.count {
          #expect(
            rig.copy(from: offset, length: length) == Array(packet[offset..<offset + length]),
            "\(layout): \(length) bytes at \(offset)")
        }
      }
    }
  }

  @Test("a received packet may be spread over several chains", arguments: Rig.formats)
  func severalChains(format: VirtioFeatures) throws {
    let rig = try Rig(size: 8, features: format, start: 65533)
    let packet = pattern(100)
    var all: [DriverQueue.Buffer] = []
    for lengths in [[30, 3], [20], [1, 46]] {
      let buffers = ChainLayout("", lengths).place(in: rig.ram, writable: true)
      rig.ring.add(buffers)
      all += buffers
    }
    rig.ring.publish()
    var chains: [DescriptorChain] = []
    var position = rig.device.position
    for _ in 0..<3 {
      let outcome = rig.device.append(at: &position, to: rig.writable)
      guard case .chain(let chain) = outcome else {
        Issue.record("\(outcome)")
        return
      }
      chains.append(chain)
    }
    #expect(rig.writable.byteCount == 100)
    unsafe packet.withUnsafeBytes {
      unsafe rig.writable.copy($0.baseAddress!, length: 100, to: 0)
    }
    #expect(rig.ram.gather(all) == packet)
    // Nothing was taken yet; now all are, and become visible together.
    for (chain, length) in zip(chains, [33, 20, 47] as [UInt32]) {
      rig.device.push(chain, length: length)
    }
    rig.device.take(to: position)
    #expect(try rig.ring.nextUsed() == nil)
    rig.device.publish()
    #expect(try rig.ring.allUsed().map(\.length) == [33, 20, 47])
  }

  @Test("an empty descriptor may point anywhere")
  func emptyAnywhere() throws {
    let rig = try Rig()
    let address = rig.ram.allocate(4).value
    rig.driver.pokeChain([
      RawDescriptor(.max, 0, flags: DescriptorFlags.next, next: 1), RawDescriptor(address, 4),
    ])
    #expect(rig.defect() == nil)
    #expect(rig.readable.byteCount == 4)
  }

  @Test("a chain of nothing but empty descriptors is an empty packet", arguments: Rig.formats)
  func empty(format: VirtioFeatures) throws {
    let rig = try Rig(features: format)
    rig.ring.add(ChainLayout("", [0, 0, 0]).place(in: rig.ram))
    rig.ring.publish()
    #expect(rig.transmit() == .bytes([]))
  }

  @Test("a buffer may run over three regions", arguments: Rig.formats)
  func threeRegions(format: VirtioFeatures) throws {
    let rig = try Rig(
      try GuestRAM.withBorders(count: 12, regionBytes: 4096, at: 0x8000), size: 16,
      features: format)
    let bytes = pattern(4096 * 2 + 100)
    let address = rig.ram.descriptions[5].guest.value + 4000
    let buffer = DriverQueue.Buffer(.init(address), UInt32(bytes.count))
    rig.ram.write(bytes, at: buffer.address)
    rig.ring.add([buffer])
    rig.ring.publish()
    #expect(rig.transmit() == .bytes(bytes))
  }

  @Test("an indirect table may cross a region border")
  func scatteredTable() throws {
    let rig = try Rig(try GuestRAM.withBorders(count: 8, regionBytes: 8192), size: 16)
    let packet = pattern(64)
    let buffers = ChainLayout("", [12, 20, 32]).place(in: rig.ram)
    rig.ram.scatter(packet, over: buffers)
    for before in [16, 32] {
      let table = rig.ram.allocateAcrossBorder(48, before: before)
      let entries = buffers.enumerated().map { i, buffer in
        RawDescriptor(
          buffer.address.value, buffer.length, flags: i < 2 ? DescriptorFlags.next : 0,
          next: UInt16(i + 1))
      }
      rig.ram.write(entries.flatMap(\.bytes), at: table)
      rig.driver.pokeChain([RawDescriptor(table.value, 48, flags: DescriptorFlags.indirect)])
      #expect(rig.transmit() == .bytes(packet), "\(before) bytes before the border")
    }
  }

  @Test("an indirect table may be longer than the ring", arguments: Rig.formats)
  func longTable(format: VirtioFeatures) throws {
    let rig = try Rig(size: 4, features: format)
    let packet = pattern(300)
    let buffers = ChainLayout("", Array(repeating: 1, count: 300)).place(in: rig.ram)
    rig.ram.scatter(packet, over: buffers)
    rig.ring.add(buffers, direct: 0)
    rig.ring.publish()
    #expect(rig.transmit() == .bytes(packet))
  }

  @Test(
    "a chain may use every descriptor of the ring", arguments: [1, 2, 128, 1024], Rig.formats)
  func fullRing(size: Int, format: VirtioFeatures) throws {
    let rig = try Rig(size: size, features: format, start: 3, shuffled: 3)
    let packet = pattern(size)
    let buffers = ChainLayout("", Array(repeating: 1, count: size)).place(in: rig.ram)
    rig.ram.scatter(packet, over: buffers)
    rig.ring.add(buffers)
    rig.ring.publish()
    #expect(rig.transmit() == .bytes(packet))
  }
}
