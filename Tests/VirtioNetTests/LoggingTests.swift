// The device while its guest migrates: rings that stop and start with a log and without one, as
// SET_FEATURES and SET_VRING_ADDR have them do.
import CLinux
import Glibc
import GuestDriver
import GuestMemory
import HostPort
import Linux
import Testing
import VirtioNet
import Virtqueue

/// A frame that says which one it is.
private func numbered(_ number: Int) -> [UInt8] {
  var bytes = frame(60 + number % 900)
  for i in 0..<4 { bytes[20 + i] = UInt8(truncatingIfNeeded: number >> (8 * i)) }
  return bytes
}

private func number(of bytes: [UInt8]) -> Int {
  (0..<4).reduce(0) { $0 | Int(bytes[20 + $1]) << (8 * $1) }
}

/// One queue pair, its driver, and the log of a front-end.
private final class MigratingGuest {
  let ram: GuestRAM
  let memory: GuestMemory
  let port: ScriptedPort
  let device: NetDevice
  let drivers: [any RingDriver]
  let kicks: [EventDescriptor]
  let log: DirtyLog
  private let bits: Mapping
  private var bases: [VringBase?] = [nil, nil]
  private var addresses: [UInt16: GuestAddress] = [:]
  var sent = 0
  var received: [[UInt8]] = []

  init(_ features: VirtioFeatures) throws {
    ram = try GuestRAM(bytes: 4 << 20)
    memory = try ram.memory()
    port = try ScriptedPort()
    device = try NetDevice(port: port, queuePairs: 1, cpus: []) { _ in }
    let ram = ram
    drivers = (0..<2).map { _ in ringDriver(in: ram, size: 64, features: features) }
    kicks = [try EventDescriptor(), try EventDescriptor()]
    let file = OwnedDescriptor(
      adopting: try checkedCall { unsafe memfd_create("log", UInt32(MFD_CLOEXEC)) })
    let raw = file.raw
    try checkedCall { ftruncate(raw, 4096) }
    bits = try Mapping(length: 4096, descriptor: raw, flags: CInt(MAP_SHARED))
    log = try DirtyLog(file, offset: 0, size: DirtyLog.size(for: memory))
  }

  deinit {
    stop()
    device.stop()
  }

  func start(logged: Bool) {
    for ring in 0..<2 {
      var config = drivers[ring].config(index: ring, memory: memory, kick: kicks[ring])
      if let base = bases[ring] { config.base = base }
      // Where the front-end says that the used ring is: drivers of packed rings have none.
      let used = (drivers[ring] as? DriverQueue)?.usedRing ?? GuestAddress(0)
      if logged { config.log = RingLog(log, buffers: true, usedRing: used) }
      device.startQueue(config)
    }
  }

  func stop() { for ring in 0..<2 { bases[ring] = device.stopQueue(ring) } }

  /// False if the ring is full.
  func send() -> Bool {
    let frame = numbered(sent)
    let mark = ram.mark
    let address = ram.allocate(12 + frame.count)
    ram.write([UInt8](repeating: 0, count: 12) + frame, at: address)
    guard drivers[1].add([.init(address, UInt32(12 + frame.count))]) != nil else {
      ram.release(to: mark)
      return false
    }
    sent += 1
    if drivers[1].publish() { kicks[1].signal() }
    return true
  }

  func offer() {
    while drivers[0].freeDescriptors > 0 {
      let address = ram.allocate(1024)
      let head = drivers[0].add([.init(address, 1024, writable: true)])!
      addresses[head] = address
    }
    if drivers[0].publish() { kicks[0].signal() }
  }

  func collect() throws {
    _ = try drivers[1].allUsed()
    while let element = try drivers[0].nextUsed() {
      let address = addresses[element.head]!
      received.append(
        ram.read(GuestAddress(address.value + 12), count: Int(element.length) - 12))
    }
  }

  func isMarked(_ page: Int) -> Bool {
    unsafe bits.base.load(fromByteOffset: page / 8, as: UInt8.self) >> UInt8(page % 8) & 1 == 1
  }

  func pages() -> [[UInt8]] {
    (0..<(4 << 20) / 4096).map {
      let page = unsafe ram.pointer(GuestAddress(UInt64($0) * 4096), length: 4096)
      return unsafe [UInt8](UnsafeRawBufferPointer(start: page, count: 4096))
    }
  }
}

@Suite("The device while its guest migrates")
struct LoggingTests {
  @Test(
    "nothing is lost, repeated or reordered while logging is switched on and off",
    arguments: [[], .ringEventIdx, .ringPacked, [.ringPacked, .ringEventIdx]] as [VirtioFeatures])
  func toggled(features: VirtioFeatures) throws {
    let guest = try MigratingGuest(features.union([.version1, .mrgRxbuf]))
    guest.offer()
    guest.start(logged: false)
    var injected = 0
    var transmitted: [[UInt8]] = []
    for round in 0..<300 {
      for _ in 0..<3 where guest.sent < 700 { _ = guest.send() }
      if injected < 700 {
        guest.port[0].inject((injected..<injected + 3).map(numbered))
        injected += 3
      }
      guest.stop()
      guest.start(logged: round % 2 == 0)
      try guest.collect()
      guest.offer()
      transmitted += guest.port[0].takeTransmitted()
    }
    #expect(
      eventually {
        transmitted += guest.port[0].takeTransmitted()
        return transmitted.count >= guest.sent
      })
    #expect(transmitted == (0..<guest.sent).map(numbered))
    // A machine that is so busy that a ring stands still for long makes frames stale, which are
    // counted.
    #expect(
      try eventually {
        try guest.collect()
        guest.offer()
        return guest.received.count + stale(guest) >= injected
      })
    let numbers = guest.received.map(number)
    #expect(numbers == Set(numbers).sorted())
    #expect(guest.received == numbers.map(numbered))
    #expect(guest.received.count + stale(guest) == injected)
    #expect(guest.port.problems.isEmpty)
  }

  private func stale(_ guest: MigratingGuest) -> Int {
    let report = guest.device.counterReport
    guard let found = report.firstRange(of: "dropped_no_guest ") else { return 0 }
    return Int(report[found.upperBound...].prefix(while: \.isNumber)) ?? 0
  }

  @Test(
    "every page that changes while a ring runs is in the log",
    arguments: [[], .ringEventIdx, .ringPacked, [.ringPacked, .ringEventIdx]] as [VirtioFeatures])
  func complete(features: VirtioFeatures) throws {
    let guest = try MigratingGuest(features.union([.version1, .mrgRxbuf]))
    guest.offer()
    for _ in 0..<40 { try #require(guest.send()) }
    let before = guest.pages()
    guest.start(logged: true)
    guest.port[0].inject((0..<50).map(numbered))
    #expect(eventually { guest.port[0].transmittedCount == 40 })
    #expect(eventually { guest.port[0].receivedCount == 50 })
    guest.stop()
    let after = guest.pages()
    let changed = before.indices.filter { before[$0] != after[$0] }
    #expect(changed.count > 1)
    #expect(changed.filter { !guest.isMarked($0) } == [])
    // And nothing like all of it.
    #expect(before.indices.count { guest.isMarked($0) } < changed.count + 8)
    // After the rings have been given back nothing is written any more.
    usleep(20_000)
    #expect(guest.pages() == after)
    #expect(guest.log.missedPages == 0)
  }
}
