// What a running queue puts into the log of written pages.
import CLinux
import Glibc
import GuestDriver
import GuestMemory
import Linux
import Testing
import Virtqueue

@Suite("The log of a queue's writes")
struct WriteLogTests {
  private static let features: VirtioFeatures = [.version1, .ringIndirectDesc, .mrgRxbuf]

  /// A queue whose writes are logged; the rings are in the first region, buffers where the test
  /// wants them.
  private final class Logged<Driver: RingDriver> {
    let ram: GuestRAM
    let driver: Driver
    let device: AnyVirtqueue
    let event: EventDescriptor
    private let bits: Mapping

    /// - Parameter ringAt: what SET_VRING_ADDR says of the used ring; nil: it is not logged.
    init(
      buffers: Bool = true, ringAt: GuestAddress? = nil, logsRing: Bool = true,
      usedRing: (Driver) -> GuestAddress, _ makeDriver: (GuestRAM) -> Driver
    ) throws {
      ram = try GuestRAM([(0, 1 << 20), (1 << 24, 1 << 20)])
      driver = makeDriver(ram)
      event = try EventDescriptor()
      let file = OwnedDescriptor(
        adopting: try checkedCall { unsafe memfd_create("log", UInt32(MFD_CLOEXEC)) })
      let raw = file.raw
      try checkedCall { ftruncate(raw, 4096) }
      bits = try Mapping(length: 4096, descriptor: raw, flags: CInt(MAP_SHARED))
      let log = try DirtyLog(file, offset: 0, size: 4096, event: event)
      var config = driver.config(memory: try ram.memory())
      config.log = RingLog(
        log, buffers: buffers, usedRing: logsRing ? ringAt ?? usedRing(driver) : nil)
      device = try AnyVirtqueue(activating: config)
    }

    /// Pages that were marked since the last time.
    func takePages() -> [Int] {
      (0..<80).flatMap { word in
        let set = unsafe shared_exchange64(bits.base + 8 * word, 0)
        return (0..<64).filter { set >> UInt64($0) & 1 == 1 }.map { word * 64 + $0 }
      }
    }

    /// Offers one chain and fills it with `count` bytes.
    func receive(_ chain: [DriverQueue.Buffer], count: Int, direct: Int? = nil) throws {
      try #require(driver.add(chain, direct: direct) != nil)
      driver.publish()
      let writable = DeviceWritableBuffers(capacity: 64)
      var position = device.position
      guard case .chain(let taken) = device.append(at: &position, to: writable) else {
        Issue.record("no chain")
        return
      }
      let bytes = [UInt8](repeating: 7, count: count)
      unsafe bytes.withUnsafeBytes {
        unsafe writable.copy($0.baseAddress!, length: count, to: 0)
      }
      device.didWrite(writable, length: count)
      device.push(taken, length: UInt32(count))
      device.take(to: position)
    }
  }

  private func split(
    buffers: Bool = true, ringAt: GuestAddress? = nil, logsRing: Bool = true,
    features: VirtioFeatures = WriteLogTests.features, size: Int = 256
  ) throws -> Logged<DriverQueue> {
    try Logged(buffers: buffers, ringAt: ringAt, logsRing: logsRing, usedRing: \.usedRing) {
      DriverQueue(in: $0, size: size, features: features)
    }
  }

  private func page(_ address: GuestAddress) -> Int { Int(address.value / 4096) }

  @Test("the whole used ring is marked when logging begins: it may have been written just before")
  func atStart() throws {
    let queue = try split(size: 1024)
    let first = page(queue.driver.usedRing)
    let last = page(GuestAddress(queue.driver.usedRing.value + 4 + 8 * 1024 + 1))
    #expect(queue.takePages() == Array(first...last))
  }

  @Test("written bytes of buffers are marked, wherever the chain is cut, and no others")
  func buffers() throws {
    let queue = try split(logsRing: false)
    #expect(queue.takePages() == [])
    let high = 1 << 24
    func buffer(_ address: Int, _ length: UInt32) -> DriverQueue.Buffer {
      .init(GuestAddress(UInt64(address)), length, writable: true)
    }
    try queue.receive(
      [buffer(high + 4090, 12), buffer(high + 0x8000, 5000), buffer(high + 0x20000, 4096)],
      count: 12 + 5000 + 1)
    let base = high / 4096
    #expect(queue.takePages() == [base, base + 1, base + 8, base + 9, base + 0x20])
    try queue.receive([buffer(high + 0x8000, 5000), buffer(high, 100)], count: 13, direct: 0)
    #expect(queue.takePages() == [base + 8])
    queue.device.publish()
    #expect(queue.takePages() == [])
  }

  @Test("used elements and their index are marked where the front-end says that the ring is")
  func usedRing() throws {
    // Beyond guest memory: only the log has to reach so far.
    let claimed = GuestAddress(0x123_0000)
    let queue = try split(buffers: false, ringAt: claimed, size: 2048)
    let first = page(claimed)
    #expect(queue.takePages() == Array(first...first + 4))
    let buffer = DriverQueue.Buffer(queue.ram.allocate(64), 64, writable: true)
    // Elements are 8 bytes after the first 4: element 511 lies across a border.
    for i in 0..<2048 {
      try queue.receive([buffer], count: 1)
      if i == 511 { #expect(queue.takePages() == [], "not before they are published") }
      queue.device.publish()
      // Every element is published, those near a border of pages are looked at.
      guard i % 512 < 2 || i % 512 > 508 else {
        _ = try queue.driver.allUsed()
        _ = queue.takePages()
        continue
      }
      let from = (4 + 8 * i) / 4096
      let to = (4 + 8 * i + 7) / 4096
      #expect(queue.takePages() == Set([0, from, to]).sorted().map { first + $0 }, "element \(i)")
      _ = try queue.driver.allUsed()
    }
    // Several at once, over the end of the ring.
    for _ in 0..<600 { try queue.receive([buffer], count: 1) }
    queue.device.publish()
    #expect(queue.takePages() == [first, first + 1])
  }

  @Test("what asks for kicks is marked", arguments: [true, false])
  func notification(eventIdx: Bool) throws {
    let queue = try split(
      features: eventIdx ? WriteLogTests.features.union(.ringEventIdx) : WriteLogTests.features,
      size: 2048)
    _ = queue.takePages()
    _ = queue.device.enableKicks()
    let written = queue.driver.usedRing.value + (eventIdx ? 4 + 8 * 2048 : 0)
    #expect(queue.takePages() == [page(GuestAddress(written))])
    queue.device.disableKicks()
    #expect(queue.takePages().isEmpty == eventIdx)
  }

  @Test("a packed ring marks the used descriptors and the note of where it stands, each time")
  func packed() throws {
    // So large that the device's event structure is on another page than the first descriptors.
    let queue = try Logged(buffers: false, usedRing: \.deviceArea) {
      PackedDriverQueue(in: $0, size: 512, features: WriteLogTests.features.union(.ringPacked))
    }
    let descriptors = page(queue.driver.descriptorRing)
    let note = page(queue.driver.deviceArea)
    #expect(queue.takePages() == Array(descriptors...note))
    #expect(note > descriptors)
    let buffer = DriverQueue.Buffer(queue.ram.allocate(64), 64, writable: true)
    for _ in 0..<3 {
      try queue.receive([buffer], count: 1)
      #expect(queue.takePages() == [], "not before they are published")
      queue.device.publish()
      #expect(queue.takePages() == [descriptors, note])
    }
  }

  @Test("the front-end's event is written when pages were marked that were not")
  func event() throws {
    let queue = try split()
    let buffer = DriverQueue.Buffer(queue.ram.allocate(64), 64, writable: true)
    _ = queue.event.drain()
    _ = queue.takePages()
    try queue.receive([buffer], count: 1)
    queue.device.publish()
    #expect(queue.event.drain())
    try queue.receive([buffer], count: 1)
    queue.device.publish()
    #expect(!queue.event.drain(), "marked already")
  }
}
