// The part of configuration-fuzz for a device whose worker runs: its control queue, its configuration
// space and its saved state, in any order.
import Fuzzing
import GuestDriver
import GuestMemory
import HostPort
import Packet
import VhostUser
import VirtioNet
import Virtqueue

private final class Fixture: @unchecked Sendable {
  static let pairs = 2
  static let ring = 2 * pairs
  static let space = 256
  let ram: GuestRAM
  let memory: GuestMemory
  let start: GuestRAM.Mark
  /// One that may have any address, and one that packets to two addresses come to.
  let devices: [NetDevice]

  init() throws {
    ram = try GuestRAM(bytes: 1 << 17)
    memory = try ram.memory()
    start = ram.mark
    let own = MACAddress(bytes: [2, 0, 0, 0, 0, 1])!
    var steered = ControlOptions(address: own)
    steered.steered = [own, MACAddress(bytes: [2, 0, 0, 0, 0, 2])!]
    devices = try [ControlOptions(address: own), steered].map {
      try NetDevice(
        port: NullPort(queueCount: 1), queuePairs: Fixture.pairs, cpus: [],
        control: $0, polling: Polling(mode: .sleep)
      ) { require(!$0.isEmpty, "a line without a word") }
    }
  }
}

private let fixture: Fixture = {
  do { return try Fixture() } catch { fatalError("no device: \(error)") }
}()

private struct Session {
  let device: NetDevice
  var features: VirtioFeatures = []
  var driver: DriverQueue?

  var configuration: [UInt8] {
    device.readConfiguration(at: 0, count: Fixture.space) ?? []
  }
  var state: [UInt8] { device.saveState() }

  /// Other features, or the same: the rings stand still meanwhile.
  mutating func negotiate(_ wanted: VirtioFeatures) {
    stop()
    features = wanted.union([.version1, .ctrlVq, .mq]).intersection(device.offeredFeatures)
    device.negotiate(features)
    start()
  }

  mutating func start() {
    fixture.ram.release(to: fixture.start)
    let driver = DriverQueue(
      in: fixture.ram, size: 16, features: features.intersection([.version1, .ringIndirectDesc]))
    var config = driver.config(Fixture.ring, fixture.memory)
    config.features = features
    device.startQueue(config)
    self.driver = driver
  }

  mutating func stop() {
    _ = device.stopQueue(Fixture.ring)
    driver = nil
  }

  /// A chain as a driver makes it: the command in some pieces, and room for an answer.
  mutating func command(_ bytes: [UInt8], pieces: Int, answer: Int) {
    guard let driver else { return }
    let mark = fixture.ram.mark
    defer { fixture.ram.release(to: mark) }
    var buffers: [DriverQueue.Buffer] = []
    let size = max(1, (bytes.count + pieces - 1) / pieces)
    for part in stride(from: 0, to: bytes.count, by: size) {
      let piece = bytes[part..<min(part + size, bytes.count)]
      let place = fixture.ram.allocate(piece.count)
      fixture.ram.write(piece, at: place)
      buffers.append(.init(place, UInt32(piece.count)))
    }
    let room = fixture.ram.allocate(max(1, answer))
    fixture.ram.write([0xaa], at: room)
    if answer > 0 { buffers.append(.init(room, UInt32(answer), writable: true)) }
    if buffers.isEmpty { buffers.append(.init(room, 0)) }
    let before = state
    guard driver.add(buffers) != nil else { return }
    driver.publish()
    device.serveControlQueue()
    guard let element = try? driver.nextUsed() else { fatalError("a command that stays") }
    guard answer > 0 else {
      require(element.length == 0, "an answer where there is no room for one")
      require(state == before, "carried out without an answer")
      return goals.reach(Goal.commandUnanswered)
    }
    require(element.length == 1, "an answer of \(element.length) bytes")
    switch fixture.ram.read(room, count: 1)[0] {
    case 0:
      require(isCommand(bytes, features), "carried out, and no command")
      goals.reach(Goal.commandDone)
    case 1:
      require(state == before, "refused, and it has changed something")
      goals.reach(Goal.commandRefused)
    case let other: fatalError("answered \(other)")
    }
  }

  /// A ring of anything.
  mutating func scribble(_ input: inout Input) {
    guard let driver else { return }
    for index in 0..<4 {
      driver.pokeDescriptor(
        index,
        RawDescriptor(
          UInt64(input.half()), UInt32(input.half()), flags: UInt16(input.byte() & 7),
          next: UInt16(input.byte() & 31)))
    }
    for index in 0..<4 { driver.pokeAvailEntry(UInt16(index), UInt16(input.byte() & 31)) }
    driver.pokeAvailIndex(driver.publishedUsedIndex &+ UInt16(input.byte() & 31))
    device.serveControlQueue()
    device.serveControlQueue()
    if driver.publishedUsedIndex == 0 { goals.reach(Goal.ringFault) }
    // What its driver thinks of it is of no use any more.
    stop()
    start()
  }

  func write(_ offset: Int, _ bytes: [UInt8], restoring: Bool) {
    let (before, space) = (state, configuration)
    guard device.writeConfiguration(at: offset, bytes, restoring: restoring) else {
      require(state == before && configuration == space, "refused, and written")
      return goals.reach(Goal.writeRefused)
    }
    let now = configuration
    for i in now.indices {
      let isWritten = i >= offset && i < offset + bytes.count && i < 6
      require(now[i] == (isWritten ? bytes[i - offset] : space[i]), "byte \(i) of the space")
    }
    goals.reach(Goal.addressWritten)
  }

  func read(_ offset: Int, _ count: Int) {
    let space = configuration
    require(space.count == Fixture.space, "a space of \(space.count) bytes")
    guard let bytes = device.readConfiguration(at: offset, count: count) else {
      require(count == 0 || offset + count > Fixture.space, "a part that cannot be read")
      return goals.reach(Goal.readRefused)
    }
    require(bytes == Array(space[offset..<offset + count]), "other bytes than the space's")
    goals.reach(Goal.configurationRead)
  }

  mutating func restore(_ bytes: [UInt8]) {
    stop()
    let before = state
    do throws(DeviceStateError) {
      try device.restoreState(bytes)
      require(bytes.isEmpty || state == bytes, "another state than was restored")
      if !bytes.isEmpty { goals.reach(Goal.restored) }
    } catch {
      require(state == before, "refused, and it has changed something")
      goals.reach(Goal.restoreRefused)
    }
    start()
  }
}

func runDevice(_ input: inout Input) {
  let device = fixture.devices[Int(input.byte() & 1)]
  var session = Session(device: device)
  session.negotiate(features(input.byte()))
  for _ in 0..<24 where !input.isEmpty {
    let step = input.byte()
    switch step & 7 {
    case 0, 1:
      let bytes = input.bytes(Int(input.byte()))
      session.command(bytes, pieces: 1 + Int(step >> 3 & 3), answer: Int(step >> 5 & 3))
    case 2: session.scribble(&input)
    case 3:
      let offset = Int(input.byte())
      session.write(offset, input.bytes(Int(input.byte())), restoring: step & 8 != 0)
    case 4: session.read(Int(input.half() & 0x1ff), Int(input.half() & 0x1ff))
    case 5:
      // What is there now, with a byte of it changed, or a new one.
      var bytes = step & 8 == 0 ? session.state : input.bytes(Int(input.half() & 0xfff))
      for _ in 0..<Int(step >> 4 & 3) where !bytes.isEmpty {
        bytes[Int(input.half()) % bytes.count] = input.byte()
      }
      session.restore(bytes)
    case 6: session.negotiate(features(input.byte()))
    default:
      session.stop()
      switch step >> 3 & 3 {
      case 0: device.reset()
      case 1: device.driverMayBegin()
      case 2: device.setCarrier(step & 0x20 != 0)
      default: device.announce((2, 0, 0, 0, 0, step))
      }
      goals.reach(Goal.reset)
      session.start()
    }
    require(ControlState(decoding: session.state) != nil, "a state that cannot be restored")
    _ = device.takeConfigurationNews()
  }
  session.stop()
  device.negotiate([])
  device.reset()
}
