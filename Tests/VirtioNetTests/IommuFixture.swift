// A guest behind an IOMMU on the whole stack: front-end, session on its own thread, device, workers.
import Glibc
import GuestDriver
import GuestMemory
import Linux
import Synchronization
import VhostUser
import VirtioNet
import Virtqueue

final class IommuGuest {
  /// I/O virtual addresses are this far from guest addresses where a test does not say otherwise.
  static let bias: UInt64 = 0x40_0000_0000

  let ram: GuestRAM
  let port: ScriptedPort
  let frontEnd: FrontEnd
  let iommu: GuestIOMMU?
  var rings: [FrontEndRing] = []
  private let lines = Lines()
  private var session: PinnedThread?

  final class Lines: Sendable {
    private let list = Mutex<[String]>([])
    let report = Mutex("")
    var all: [String] { list.withLock { $0 } }
    func add(_ line: String) { list.withLock { $0.append(line) } }
  }

  init(
    pairs: Int = 1, ringSize: Int = 64, features: VirtioFeatures = [],
    repliesToMisses: Bool = true, channel: Bool = true
  ) throws {
    ram = try GuestRAM(bytes: 16 << 20)
    var options = ScriptedPort.Options()
    options.queueCount = pairs
    port = try ScriptedPort(options)
    var abilities = FrontEnd.Abilities()
    abilities.protocolFeatures.insert(.backendReq)
    if !repliesToMisses { abilities.protocolFeatures.remove(.replyAck) }
    let (front, back) = try FrontEnd.pair(abilities)
    frontEnd = front
    session = try IommuGuest.serve(back, port, pairs, lines)
    let wanted = features.union([.version1, .mrgRxbuf, .accessPlatform, .ringIndirectDesc])
    if channel {
      // The channel needs protocol features only.
      try frontEnd.negotiate(wanted)
      iommu = try GuestIOMMU(frontEnd)
    } else {
      try frontEnd.negotiate(wanted)
      iommu = nil
    }
    precondition(frontEnd.features.contains(.accessPlatform))
    try frontEnd.setMemory(ram)
    for index in 0..<2 * pairs {
      let queue = DriverQueue(
        in: ram, size: ringSize, features: frontEnd.features.subtracting(.protocolFeatures))
      rings.append(try FrontEndRing(index: index, queue: queue))
    }
  }

  deinit {
    shutdown(frontEnd.socket.raw, CInt(SHUT_RDWR))
    session.take()?.join()
  }

  var log: [String] { lines.all }

  /// The control thread: a session until its front-end leaves.
  private static func serve(
    _ socket: CInt, _ port: ScriptedPort, _ pairs: Int, _ lines: Lines
  ) throws -> PinnedThread {
    try PinnedThread(name: "session") {
      guard
        let device = try? NetDevice(
          port: port, queuePairs: pairs, cpus: [], log: { lines.add($0) })
      else { return }
      let back = BackEnd(
        device: device, socket: UnixSocket(adopting: OwnedDescriptor(adopting: socket)),
        log: { _, line in lines.add(line) })
      while let descriptor = back.descriptor {
        var poller = pollfd(fd: descriptor, events: Int16(POLLIN), revents: 0)
        _ = unsafe poll(&poller, 1, 100)
        do { _ = try back.handleReadable() } catch { lines.add("\(error)") }
        let report = device.settledReport
        lines.report.withLock { $0 = report }
      }
      device.stop()
    }
  }

  /// The device's counters, as of now.
  func counters() -> String {
    // They are written down after each request.
    _ = try? frontEnd.askInteger(.getFeatures)
    _ = try? frontEnd.askInteger(.getFeatures)
    return lines.report.withLock { $0 }
  }

  func start(_ ring: Int) throws {
    let ring = rings[ring]
    let queue = ring.queue
    func address(_ guest: GuestAddress) -> FrontEndAddress {
      iommu == nil
        ? ram.frontEnd(of: guest) : FrontEndAddress(guest.value + IommuGuest.bias)
    }
    try frontEnd.tell(.setVringNum, FrontEnd.vringState(ring.index, UInt32(queue.size)))
    try frontEnd.setAddresses(
      ring.index, descriptors: address(queue.descriptorTable), used: address(queue.usedRing),
      avail: address(queue.availRing))
    try frontEnd.setDescriptor(.setVringErr, ring.index, ring.error.raw)
    try frontEnd.setDescriptor(.setVringCall, ring.index, ring.call.raw)
    try frontEnd.setDescriptor(.setVringKick, ring.index, ring.kick.raw)
    try frontEnd.enable(ring.index)
  }

  /// Maps all of the guest's memory at its usual I/O virtual addresses.
  func mapAll() {
    iommu!.map(IommuGuest.bias, size: 16 << 20, to: ram.frontEnd(of: GuestAddress(0)))
  }

  /// The rings' own pages only, as a front-end knows them first; and answers for them.
  func startMapped() throws {
    mapAll()
    for ring in rings.indices { try start(ring) }
    try settle()
  }

  /// Answers until a while passes without a question.
  func settle() throws {
    var quiet = 0
    while quiet < 50 {
      quiet = try iommu!.serve() > 0 ? 0 : quiet + 1
      usleep(1000)
    }
  }

  /// Whether just this frame goes out, while questions are answered.
  func sends(_ frame: [UInt8]) throws -> Bool {
    try eventually {
      try iommu!.serve()
      return takeTransmitted() == [frame]
    }
  }

  /// The questions that come until there are `count`, and shortly afterwards.
  func questions(_ count: Int) throws -> [GuestIOMMU.Miss] {
    var questions: [GuestIOMMU.Miss] = []
    _ = try eventually {
      questions += try iommu!.takeMisses()
      return questions.count >= count
    }
    usleep(50_000)
    return try questions + iommu!.takeMisses()
  }

  /// A page of guest memory, all its own.
  func page(_ count: Int = 1) -> GuestAddress { ram.allocate(4096 * count, alignment: 4096) }

  /// A packet at I/O virtual addresses, in as many buffers as given.
  func transmit(_ buffers: [(address: UInt64, length: Int)], pair: Int = 0) {
    let ring = rings[2 * pair + 1]
    ring.queue.add(
      buffers.map { DriverQueue.Buffer(GuestAddress($0.address), UInt32($0.length)) })
    ring.publish()
  }

  func offer(_ address: UInt64, _ length: Int, pair: Int = 0) {
    let ring = rings[2 * pair]
    ring.queue.add([DriverQueue.Buffer(GuestAddress(address), UInt32(length), writable: true)])
    ring.publish()
  }

  func takeTransmitted() -> [[UInt8]] { port[0].takeTransmitted() }
}
