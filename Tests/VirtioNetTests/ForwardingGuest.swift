// A guest behind a front-end that forwards configuration space and control queue, and the daemon's
// control thread that serves it.
import Glibc
import GuestDriver
import GuestMemory
import HostPort
import Linux
import Packet
import Synchronization
import Testing
import VhostUser
import VirtioNet
import Virtqueue

final class ForwardingGuest {
  static let address = MACAddress("52:54:00:12:34:56")!
  /// All that the control queue has.
  static let features: VirtioFeatures = [
    .version1, .mrgRxbuf, .mac, .status, .ctrlVq, .ctrlRx, .ctrlRxExtra, .ctrlVlan, .ctrlMacAddr,
    .guestAnnounce, .mq, .speedDuplex, .mtu,
  ]

  let port: ScriptedPort
  let ram: GuestRAM
  let front: FrontEnd
  private(set) var rings: [FrontEndRing] = []
  private(set) var control: FrontEndRing?
  private let pairs: Int
  private let channel: FrontEndSocket
  private let mail: Mailbox<@Sendable (NetDevice, BackEnd) -> Void>
  private let lines: Lines
  private var thread: PinnedThread?

  private final class Lines: Sendable {
    let all = Mutex<[String]>([])
  }

  var log: [String] { lines.all.withLock { $0 } }

  init(pairs: Int = 1, options: ControlOptions? = nil) throws {
    var portOptions = ScriptedPort.Options()
    portOptions.queueCount = pairs
    let port = try ScriptedPort(portOptions)
    let options = options ?? ControlOptions(address: ForwardingGuest.address)
    let mail = try Mailbox<@Sendable (NetDevice, BackEnd) -> Void>()
    let lines = Lines()
    var abilities = FrontEnd.Abilities()
    abilities.protocolFeatures.formUnion([.config, .backendReq])
    let (front, raw) = try FrontEnd.pair(abilities)
    (self.port, self.mail, self.lines, self.front) = (port, mail, lines, front)
    self.pairs = pairs
    ram = try GuestRAM(bytes: 16 << 20)
    let (own, lent) = try FrontEndSocket.pair()
    channel = try FrontEndSocket(adopting: OwnedDescriptor(adopting: own))
    thread = try PinnedThread(name: "control") {
      do {
        try ForwardingGuest.serve(raw, port, pairs, options, mail, lines)
      } catch {
        lines.all.withLock { $0.append("control thread: \(error)") }
      }
    }
    let lentDescriptor = OwnedDescriptor(adopting: lent)
    try front.negotiate(ForwardingGuest.features)
    try front.tell(.setBackendReqFD, descriptors: [lentDescriptor.raw])
    try front.setMemory(ram)
  }

  /// What the daemon's control loop does with a session.
  private static func serve(
    _ raw: CInt, _ port: ScriptedPort, _ pairs: Int, _ options: ControlOptions,
    _ mail: Mailbox<@Sendable (NetDevice, BackEnd) -> Void>, _ lines: Lines
  ) throws {
    let device = try NetDevice(port: port, queuePairs: pairs, cpus: [], control: options) { line in
      lines.all.withLock { $0.append(line) }
    }
    defer { device.stop() }
    let session = BackEnd(
      device: device, socket: UnixSocket(adopting: OwnedDescriptor(adopting: raw)),
      log: { level, line in if level > .debug { lines.all.withLock { $0.append(line) } } })
    let epoll = try EpollSet()
    try epoll.add(raw, .readable, tag: 0)
    try epoll.add(mail.wakeUp.raw, .readable, tag: 1)
    if let control = device.controlDescriptor { try epoll.add(control, .readable, tag: 2) }
    while true {
      var tags: [UInt64] = []
      epoll.wait(milliseconds: device.mustPollControlQueue ? 1 : -1) { tag, _ in tags.append(tag) }
      mail.drain { $0(device, session) }
      if tags.contains(2) || device.mustPollControlQueue { device.serveControlQueue() }
      if tags.contains(0), try session.handleReadable() == .closed { return }
      if device.takeConfigurationNews() { session.configurationChanged() }
    }
  }

  /// On the control thread.
  func onControlThread<Value: Sendable>(
    _ body: @escaping @Sendable (NetDevice) -> Value
  ) throws -> Value {
    let reply = try Linux.Reply<Value>()
    mail.post { device, _ in reply.fulfil(body(device)) }
    return reply.wait()
  }

  private func hangUp() {
    shutdown(front.socket.raw, CInt(SHUT_RDWR))
    if let thread = thread.take() { thread.join() }
  }

  deinit { hangUp() }

  // MARK: Rings

  /// - Parameter kicked: false leaves out the control queue's kick descriptor.
  func start(
    features: VirtioFeatures = ForwardingGuest.features, kicked: Bool = true
  ) throws {
    var features = features
    if pairs == 1 { features.remove(.mq) }
    try front.setFeatures(features.union(.protocolFeatures))
    // Without MQ the driver knows of one pair, and of the control queue right behind it.
    let pairs = features.contains(.mq) ? self.pairs : 1
    rings = try (0..<2 * pairs).map { try ring(index: $0, size: 256, features) }
    for ring in rings { try front.start(ring) }
    let index = 2 * pairs
    let control = try ring(index: index, size: 64, features)
    self.control = control
    try front.start(control)
    if !kicked { try front.setDescriptor(.setVringKick, index, nil) }
    for pair in 0..<pairs { try giveBuffers(64, pair: pair) }
  }

  private func ring(
    index: Int, size: Int, _ features: VirtioFeatures
  ) throws -> FrontEndRing {
    try FrontEndRing(index: index, queue: DriverQueue(in: ram, size: size, features: features))
  }

  func giveBuffers(_ count: Int, pair: Int) throws {
    for _ in 0..<count {
      rings[2 * pair].queue.add([.init(ram.allocate(1600), 1600, writable: true)])
    }
    rings[2 * pair].publish()
  }

  /// Frames of so many bytes reached the guest by receive queue `pair`, in order.
  func takeReceived(pair: Int = 0) throws -> [Int] {
    try rings[2 * pair].queue.allUsed().map { Int($0.length) - 12 }
  }

  // MARK: Commands

  /// Sends a command, waits for its answer; nil if it came back without one.
  func command(_ bytes: [UInt8], answer size: Int = 1) throws -> UInt8? {
    guard let control else { return nil }
    let place = ram.allocate(max(bytes.count, 1))
    ram.write(bytes, at: place)
    let answer = ram.allocate(max(size, 1))
    ram.write([0xaa], at: answer)
    var buffers: [DriverQueue.Buffer] = []
    if !bytes.isEmpty { buffers.append(.init(place, UInt32(bytes.count))) }
    if size > 0 { buffers.append(.init(answer, UInt32(size), writable: true)) }
    control.queue.add(buffers)
    control.publish()
    var element: DriverQueue.UsedElement?
    guard
      try eventually({
        element = try control.queue.nextUsed()
        return element != nil
      })
    else {
      Issue.record("no answer to \(bytes.prefix(8))")
      return nil
    }
    return element?.length == 0 ? nil : ram.read(answer, count: 1)[0]
  }

  static let ok: UInt8 = 0
  static let error: UInt8 = 1

  // MARK: Configuration space

  func readConfiguration(_ offset: Int, _ count: Int) throws -> [UInt8] {
    var payload: [UInt8] = []
    for number in [offset, count, 0] {
      payload += (0..<4).map { UInt8(truncatingIfNeeded: number >> (8 * $0)) }
    }
    payload += [UInt8](repeating: 0, count: count)
    return Array(try front.ask(.getConfig, payload, replySize: 12 + count).payload.dropFirst(12))
  }

  func status() throws -> UInt8 { try readConfiguration(6, 2)[0] }

  /// The next request on the channel; nil if none comes.
  func nextNews() throws -> UInt32? {
    do throws(FrontEndError) { return try channel.receive().request } catch .timeout { return nil }
  }

  /// Waits until something became true; thirty thousand looks, a millisecond apart, at most.
  func eventually(_ condition: () throws -> Bool) rethrows -> Bool {
    for _ in 0..<30_000 {
      if try condition() { return true }
      usleep(1000)
    }
    return false
  }
}
