// The other side of a session, for tests: a socket pair, messages as bytes, and a device that
// writes down what it is told.
import CLinux
import Glibc
import GuestMemory
import Linux
import Virtqueue

@testable import VhostUser

/// A device that runs nothing and records everything.
final class RecordingDevice: Device {
  enum Event: Equatable, CustomStringConvertible {
    case negotiate(VirtioFeatures)
    case start(Int, base: UInt32, enabled: Bool)
    case stop(Int)
    case announce([UInt8])
    case translate
    case refuse(UInt64)

    var description: String {
      switch self {
      case .negotiate(let features): "negotiate(\(features.namesOfBits))"
      case .start(let ring, let base, let enabled): "start(\(ring), \(base), \(enabled))"
      case .stop(let ring): "stop(\(ring))"
      case .announce(let address): "announce(\(address))"
      case .translate: "translate"
      case .refuse(let address): "refuse(\(address))"
      }
    }
  }

  var offeredFeatures: VirtioFeatures = [
    .version1, .anyLayout, .mrgRxbuf, .ringIndirectDesc, .ringEventIdx, .ringPacked,
  ]
  var queuePairCount = 2
  var maximumMTU = 1500
  /// Nil: no configuration space, and no control queue.
  var configuration: [UInt8]?
  /// Front-ends are trusted with it.
  var hasPostcopy = false
  private(set) var resets = 0
  private(set) var departures = 0
  /// What goes to another host; `refusesState`: nothing comes from there.
  var state: [UInt8] = []
  var refusesState = false
  private(set) var beginnings = 0
  /// How far a ring has got when it is stopped, from where it was started.
  var progress: UInt16 = 0
  /// Rings that turn out impossible: stopping them gives nothing.
  var faulty: Set<Int> = []

  private(set) var events: [Event] = []
  private(set) var running: [Int: VirtqueueConfig] = [:]

  func takeEvents() -> [Event] {
    defer { events = [] }
    return events
  }

  func negotiate(_ features: VirtioFeatures) { events.append(.negotiate(features)) }

  func startQueue(_ config: VirtqueueConfig) {
    precondition(running[config.index] == nil, "ring \(config.index) runs already")
    running[config.index] = config
    events.append(.start(config.index, base: config.base.rawValue, enabled: config.isEnabled))
    config.call?.signal()
  }

  func stopQueue(_ index: Int) -> VringBase? {
    events.append(.stop(index))
    guard let config = running.removeValue(forKey: index), !faulty.contains(index) else {
      return nil
    }
    if config.features.contains(.ringPacked) { return config.base }
    return VringBase(split: UInt16(truncatingIfNeeded: config.base.rawValue) &+ progress)
  }

  var ringCount: Int { 2 * queuePairCount + (configuration == nil ? 0 : 1) }
  var offeredProtocolFeatures: ProtocolFeatures {
    let able = hasPostcopy ? ProtocolFeatures.offered.union(.postcopy) : .offered
    return configuration == nil ? able : able.union(.config)
  }

  func reset() { resets += 1 }
  func frontEndLeft() {
    precondition(running.isEmpty, "rings run")
    departures += 1
  }
  func driverMayBegin() { beginnings += 1 }
  func saveState() -> [UInt8] { state }
  func restoreState(_ state: [UInt8]) throws(DeviceStateError) {
    if refusesState { throw .device("refused as the test wants it") }
    self.state = state
  }

  func readConfiguration(at offset: Int, count: Int) -> [UInt8]? {
    guard let configuration, offset + count <= configuration.count else { return nil }
    return Array(configuration[offset..<offset + count])
  }

  /// Its first six bytes are the driver's to write.
  func writeConfiguration(at offset: Int, _ bytes: [UInt8], restoring: Bool) -> Bool {
    let end = offset + bytes.count
    guard let count = configuration?.count, end <= (restoring ? count : 6) else { return false }
    configuration?.replaceSubrange(offset..<end, with: bytes)
    return true
  }
  func translate(by table: Translations) { events.append(.translate) }
  func refuse(_ miss: TranslationMiss) { events.append(.refuse(miss.address.value)) }

  func announce(_ address: (UInt8, UInt8, UInt8, UInt8, UInt8, UInt8)) {
    events.append(
      .announce([address.0, address.1, address.2, address.3, address.4, address.5]))
  }
}

/// A session and its front-end in one thread: what is sent is carried out at once.
final class ScriptedFrontEnd {
  let device: RecordingDevice
  let back: BackEnd
  private var socket: UnixSocket?
  let raw: CInt
  /// How the session ended, if it did.
  private(set) var outcome: Result<BackEnd.Progress, VhostUserError>?
  /// What came with the last reply that had a descriptor.
  private(set) var lastDescriptor: EventDescriptor?

  private final class Lines {
    var log: [String] = []
    var connections: [String] = []
  }
  private let lines = Lines()

  convenience init(
    _ device: RecordingDevice = RecordingDevice(), limit: LogLimit = LogLimit()
  ) throws {
    var pair: [CInt] = [-1, -1]
    try checkedCall {
      unsafe socketpair(
        AF_UNIX, CInt(SOCK_STREAM.rawValue | SOCK_CLOEXEC.rawValue), 0, &pair)
    }
    self.init(
      device, front: UnixSocket(adopting: OwnedDescriptor(adopting: pair[0])),
      back: UnixSocket(adopting: OwnedDescriptor(adopting: pair[1])), limit: limit)
  }

  init(
    _ device: RecordingDevice = RecordingDevice(), front: consuming UnixSocket,
    back: consuming UnixSocket, limit: LogLimit = LogLimit()
  ) {
    self.device = device
    raw = front.raw
    socket = consume front
    self.back = BackEnd(
      device: device, socket: back, limit: limit,
      log: { [lines] in lines.log.append("\($0): \($1)") },
      connected: { [lines] in lines.connections.append($0) })
  }

  var warnings: [String] { lines.log.filter { $0.hasPrefix("warning") } }
  var summaries: [String] { lines.connections }

  /// Puts bytes into the socket, without carrying out anything.
  func write(_ bytes: [UInt8], descriptors: [CInt] = []) throws {
    let raw = raw
    let sent = unsafe bytes.withUnsafeBytes {
      unsafe clinux_send_fds(
        raw, $0.baseAddress, bytes.count, descriptors, CInt(descriptors.count), 0)
    }
    guard sent == bytes.count else { throw Errno(CInt(truncatingIfNeeded: -sent)) }
  }

  /// Lets the back-end do what has arrived.
  func run() {
    do throws(VhostUserError) {
      let progress = try back.handleReadable()
      if progress == .closed { outcome = .success(progress) }
    } catch {
      outcome = .failure(error)
    }
  }

  /// What the back-end has written: all of it.
  func readReply() throws -> (header: [UInt32], payload: [UInt8])? {
    var buffer = [UInt8](repeating: 0, count: 8192)
    var descriptors = ReceivedDescriptors()
    switch try socket!.receive(into: &buffer, at: 0..<buffer.count, descriptors: &descriptors) {
    case .wouldBlock, .endOfStream: return nil
    case .bytes(let count):
      if let descriptor = descriptors.takeFirst() {
        lastDescriptor = EventDescriptor(adopting: descriptor)
      }
      var reader = PayloadReader(buffer[..<count])
      return ([reader.next32(), reader.next32(), reader.next32()], Array(buffer[12..<count]))
    }
  }

  /// Sends a request and gives the payload of the reply; nil if there is none.
  @discardableResult
  func send(
    _ request: UInt32, _ payload: [UInt8] = [], descriptors: [CInt] = [], needReply: Bool = false
  ) throws -> [UInt8]? {
    let flags = MessageHeader.version | (needReply ? MessageHeader.needReplyFlag : 0)
    let header = MessageHeader(request: request, flags: flags, size: UInt32(payload.count))
    try write(header.bytes + payload, descriptors: descriptors)
    run()
    guard let reply = try readReply() else { return nil }
    guard reply.header == [request, 0x5, UInt32(reply.payload.count)] else {
      throw VhostUserError.unknownRequest(reply.header[0])
    }
    return reply.payload
  }

  /// Sends a request that asks for a reply; 0 is success.
  func acknowledged(
    _ request: UInt32, _ payload: [UInt8] = [], descriptors: [CInt] = []
  ) throws -> UInt64? {
    try send(request, payload, descriptors: descriptors, needReply: true).map {
      var reader = PayloadReader($0)
      return reader.next64()
    }
  }

  func number(_ request: UInt32) throws -> UInt64? {
    try send(request).map {
      var reader = PayloadReader($0)
      return reader.next64()
    }
  }

  func hangUp() { socket = nil }

  // MARK: What front-ends do

  /// Negotiates as QEMU does: protocol features, then virtio features with bit 30.  Addresses are
  /// the front-end's own.
  func negotiate(
    _ features: VirtioFeatures = [.version1, .mrgRxbuf],
    protocol wanted: ProtocolFeatures = .offered.subtracting([.gpaAddresses, .inbandNotifications])
  ) throws {
    try send(3)
    try send(16, bytes(wanted.union(device.hasPostcopy ? .postcopy : []).rawValue))
    try send(2, bytes(features.union(.protocolFeatures).rawValue))
  }

  /// One region of 1 MiB at guest address 0 and front-end address 0x7000_0000_0000.
  func shareMemory() throws {
    let file = try memoryFile(1 << 20)
    try send(5, table([.megabyte]), descriptors: [file.raw])
  }

  /// Everything that a ring needs, in QEMU's order; the kick comes last but for enabling.
  func setUp(_ ring: Int, base: UInt32 = 0, enable: Bool = true) throws {
    let kick = try EventDescriptor()
    let call = try EventDescriptor()
    try send(8, state(ring, 256))
    try send(10, state(ring, base))
    try send(9, addresses(ring))
    try send(12, bytes(UInt64(ring)), descriptors: [kick.raw])
    try send(13, bytes(UInt64(ring)), descriptors: [call.raw])
    if enable { try send(18, state(ring, 1)) }
  }
}

extension MemoryRegionDescription {
  static let megabyte = MemoryRegionDescription(
    guest: GuestAddress(0), size: 1 << 20, frontEnd: FrontEndAddress(0x7000_0000_0000), offset: 0)
  static let secondMegabyte = MemoryRegionDescription(
    guest: GuestAddress(1 << 20), size: 1 << 20, frontEnd: FrontEndAddress(0x7100_0000_0000),
    offset: 0)
}

func memoryFile(_ size: Int, name: String = "vhost-user-test") throws -> OwnedDescriptor {
  let file = OwnedDescriptor(
    adopting: try checkedCall { unsafe memfd_create(name, UInt32(MFD_CLOEXEC)) })
  let raw = file.raw
  try checkedCall { ftruncate(raw, off_t(size)) }
  return file
}

func bytes(_ numbers: UInt64...) -> [UInt8] {
  var bytes: [UInt8] = []
  for number in numbers { bytes.append(number: number) }
  return bytes
}

func state(_ ring: Int, _ number: UInt32) -> [UInt8] {
  bytes(UInt64(ring) | UInt64(number) << 32)
}

/// Addresses of a ring of 256 entries in `.megabyte`, 64 KiB for each ring.
func addresses(_ ring: Int, at base: UInt64 = 0x7000_0000_0000) -> [UInt8] {
  let start = base + UInt64(ring) << 16
  return bytes(UInt64(ring), start, start + 0x2000, start + 0x1000, 0)
}

func region(_ region: MemoryRegionDescription) -> [UInt8] {
  bytes(region.guest.value, region.size, region.frontEnd.value, region.offset)
}

func table(_ regions: [MemoryRegionDescription]) -> [UInt8] {
  bytes(UInt64(regions.count)) + regions.flatMap(region)
}
