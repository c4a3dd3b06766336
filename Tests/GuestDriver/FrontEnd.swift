// A vhost-user front-end: what QEMU or DPDK does to a back-end, request by request, and the usual
// order of them as one call.
public import GuestMemory
public import Linux
import Synchronization
public import Virtqueue

public final class FrontEnd: Sendable {
  /// What this front-end knows of the protocol, hence negotiates if it is offered.
  public struct Abilities: Sendable {
    /// Virtio feature bit 30: without it there are no protocol features, and rings start enabled.
    public var protocolFeaturesBit = true
    public var protocolFeatures: ProtocolFeatureBits = [
      .multiqueue, .rarp, .replyAck, .netMTU, .resetDevice, .configureMemSlots, .status,
    ]
    /// Memory goes region by region if CONFIGURE_MEM_SLOTS was negotiated, else as one table.
    public var addsMemoryByRegion = false
    public init() {}
  }

  public let socket: FrontEndSocket
  public let abilities: Abilities
  private let state = FrontEndState()

  public init(_ socket: consuming FrontEndSocket, _ abilities: Abilities = Abilities()) {
    self.socket = socket
    self.abilities = abilities
  }

  /// A front-end and the descriptor of a socket for the back-end, owned by the caller.
  public static func pair(
    _ abilities: Abilities = Abilities()
  ) throws -> (frontEnd: FrontEnd, backEnd: CInt) {
    let (own, other) = try FrontEndSocket.pair()
    return (
      FrontEnd(try FrontEndSocket(adopting: OwnedDescriptor(adopting: own)), abilities), other
    )
  }

  public static func connect(
    path: String, seconds: Double = 5, _ abilities: Abilities = Abilities()
  ) throws(FrontEndError) -> FrontEnd {
    FrontEnd(try FrontEndSocket.connect(path: path, seconds: seconds), abilities)
  }

  /// Negotiated so far.
  public var features: VirtioFeatures { state.features }
  public var protocolFeatures: ProtocolFeatureBits { state.protocolFeatures }

  // MARK: Requests of a kind

  /// A request that has a reply of its own.
  public func ask(
    _ request: FrontEndRequest, _ payload: [UInt8] = [], replySize: Int = 8
  ) throws(FrontEndError) -> FrontEndMessage {
    try socket.send(request.rawValue, payload)
    return try reply(to: request, size: replySize)
  }

  public func askInteger(
    _ request: FrontEndRequest, _ payload: [UInt8] = []
  ) throws(FrontEndError) -> UInt64 {
    try ask(request, payload).integer(at: 0, as: UInt64.self)
  }

  /// A request without a reply of its own: with REPLY_ACK its acknowledgement is waited for.
  public func tell(
    _ request: FrontEndRequest, _ payload: [UInt8] = [], descriptors: [CInt] = []
  ) throws(FrontEndError) {
    guard protocolFeatures.contains(.replyAck) else {
      try socket.send(request.rawValue, payload, descriptors: descriptors)
      return
    }
    try socket.send(
      request.rawValue, payload, descriptors: descriptors,
      flags: FrontEndSocket.version | FrontEndSocket.needReplyFlag)
    let code = try reply(to: request, size: 8).integer(at: 0, as: UInt64.self)
    guard code == 0 else { throw .refused(request, code: code) }
  }

  private func reply(
    to request: FrontEndRequest, size: Int
  ) throws(FrontEndError) -> FrontEndMessage {
    let message = try socket.receive()
    guard message.request == request.rawValue,
      message.flags == FrontEndSocket.version | FrontEndSocket.replyFlag,
      message.payload.count == size
    else {
      throw .badReply(
        request: message.request, flags: message.flags, size: UInt32(message.payload.count))
    }
    return message
  }

  /// Returns when the back-end has handled everything sent before.
  public func synchronize() throws(FrontEndError) { _ = try askInteger(.getFeatures) }

  // MARK: Device

  /// Features, protocol features and owner, in the order of QEMU.
  /// - Parameter wanted: acknowledged as far as offered, with bit 30 if this front-end knows it.
  @discardableResult
  public func negotiate(
    _ wanted: VirtioFeatures = VirtioFeatures(rawValue: .max)
  ) throws(FrontEndError) -> VirtioFeatures {
    let offered = VirtioFeatures(rawValue: try askInteger(.getFeatures))
    if abilities.protocolFeaturesBit, offered.contains(.protocolFeatures) {
      let bits = ProtocolFeatureBits(rawValue: try askInteger(.getProtocolFeatures))
      let common = bits.intersection(abilities.protocolFeatures)
      try tell(.setProtocolFeatures, littleEndian(common.rawValue))
      state.protocolFeatures = common
    }
    try tell(.setOwner)
    let known: VirtioFeatures = abilities.protocolFeaturesBit ? .protocolFeatures : []
    try setFeatures(
      offered.intersection(wanted.subtracting(.protocolFeatures).union(known)))
    return state.features
  }

  public func setFeatures(_ features: VirtioFeatures) throws(FrontEndError) {
    try tell(.setFeatures, littleEndian(features.rawValue))
    state.features = features
  }

  // MARK: Memory

  /// Gives the back-end all of `ram`.
  public func setMemory(_ ram: GuestRAM) throws(FrontEndError) {
    if abilities.addsMemoryByRegion, protocolFeatures.contains(.configureMemSlots) {
      for region in ram.descriptions { try addMemory(region, file: ram.fileNumber) }
    } else {
      try setMemoryTable(ram.descriptions, files: ram.descriptions.map { _ in ram.fileNumber })
    }
  }

  public func setMemoryTable(
    _ regions: [MemoryRegionDescription], files: [CInt]
  ) throws(FrontEndError) {
    try tell(
      .setMemTable,
      littleEndian(UInt32(regions.count)) + littleEndian(UInt32(0))
        + regions.flatMap(FrontEnd.bytes(of:)), descriptors: files)
  }

  public func addMemory(
    _ region: MemoryRegionDescription, file: CInt
  ) throws(FrontEndError) {
    try tell(
      .addMemReg, littleEndian(UInt64(0)) + FrontEnd.bytes(of: region), descriptors: [file])
  }

  public func removeMemory(_ region: MemoryRegionDescription) throws(FrontEndError) {
    try tell(.remMemReg, littleEndian(UInt64(0)) + FrontEnd.bytes(of: region))
  }

  public static func bytes(of region: MemoryRegionDescription) -> [UInt8] {
    littleEndian(region.guest.value) + littleEndian(region.size)
      + littleEndian(region.frontEnd.value) + littleEndian(region.offset)
  }

  // MARK: Rings

  /// The payload that most ring requests have: index and a number.
  public static func vringState(_ index: Int, _ number: UInt32) -> [UInt8] {
    littleEndian(UInt32(index)) + littleEndian(number)
  }

  public func setAddresses(
    _ index: Int, descriptors: FrontEndAddress, used: FrontEndAddress, avail: FrontEndAddress
  ) throws(FrontEndError) {
    try tell(
      .setVringAddr,
      littleEndian(UInt32(index)) + littleEndian(UInt32(0)) + littleEndian(descriptors.value)
        + littleEndian(used.value) + littleEndian(avail.value) + littleEndian(UInt64(0)))
  }

  /// SET_VRING_KICK, CALL or ERR; without a descriptor bit 8 says so.
  public func setDescriptor(
    _ request: FrontEndRequest, _ index: Int, _ descriptor: CInt?
  ) throws(FrontEndError) {
    let number = UInt64(index) | (descriptor == nil ? 1 << 8 : 0)
    try tell(
      request, littleEndian(number), descriptors: descriptor.map { [$0] } ?? [])
  }

  public func enable(_ index: Int, _ enabled: Bool = true) throws(FrontEndError) {
    try tell(.setVringEnable, FrontEnd.vringState(index, enabled ? 1 : 0))
  }

  /// Stops the ring; the answer is the next avail index.
  public func vringBase(_ index: Int) throws(FrontEndError) -> UInt16 {
    UInt16(truncatingIfNeeded: try vringPosition(index))
  }

  /// Stops the ring; the answer is what SET_VRING_BASE takes, of either format.
  public func vringPosition(_ index: Int) throws(FrontEndError) -> UInt32 {
    let reply = try ask(.getVringBase, FrontEnd.vringState(index, 0))
    guard reply.integer(at: 0, as: UInt32.self) == UInt32(index) else {
      throw .badReply(request: reply.request, flags: reply.flags, size: 8)
    }
    return reply.integer(at: 4, as: UInt32.self)
  }
}

/// One ring of a device with the driver behind it and its three eventfds.
public final class FrontEndRing {
  public let index: Int
  public let queue: DriverQueue
  public let kick: EventDescriptor
  public let call: EventDescriptor
  public let error: EventDescriptor

  public init(index: Int, queue: DriverQueue) throws(Errno) {
    self.index = index
    self.queue = queue
    kick = try EventDescriptor()
    call = try EventDescriptor()
    error = try EventDescriptor()
  }

  /// Publishes what was added and kicks if the device asked for it.  Returns whether it kicked.
  @discardableResult
  public func publish() -> Bool {
    guard queue.publish() else { return false }
    kick.signal()
    return true
  }
}

extension FrontEnd {
  /// Everything that makes a ring run, in the order of QEMU.
  /// - Parameter enable: false leaves out SET_VRING_ENABLE; it is left out without bit 30 anyway,
  ///   where rings start enabled.
  public func start(_ ring: FrontEndRing, enable: Bool = true) throws(FrontEndError) {
    let queue = ring.queue
    try configure(
      ring.index, size: queue.size, base: UInt32(queue.usedIndex), in: queue.ram,
      descriptors: queue.descriptorTable, avail: queue.availRing, used: queue.usedRing)
    try setDescriptor(.setVringErr, ring.index, ring.error.raw)
    try setDescriptor(.setVringCall, ring.index, ring.call.raw)
    try setDescriptor(.setVringKick, ring.index, ring.kick.raw)
    if enable, features.contains(.protocolFeatures) { try self.enable(ring.index) }
  }

  /// Where a ring of either format lies, and where it begins (SET_VRING_BASE).
  public func configure(
    _ index: Int, size: Int, base: UInt32, in ram: GuestRAM, descriptors: GuestAddress,
    avail: GuestAddress, used: GuestAddress
  ) throws(FrontEndError) {
    try tell(.setVringNum, FrontEnd.vringState(index, UInt32(size)))
    try tell(.setVringBase, FrontEnd.vringState(index, base))
    try setAddresses(
      index, descriptors: ram.frontEnd(of: descriptors), used: ram.frontEnd(of: used),
      avail: ram.frontEnd(of: avail))
  }
}

/// What was negotiated; read from any thread of a test.
private final class FrontEndState: Sendable {
  private let featureBits = Atomic<UInt64>(0)
  private let protocolBits = Atomic<UInt64>(0)

  var features: VirtioFeatures {
    get { VirtioFeatures(rawValue: featureBits.load(ordering: .acquiring)) }
    set { featureBits.store(newValue.rawValue, ordering: .releasing) }
  }
  var protocolFeatures: ProtocolFeatureBits {
    get { ProtocolFeatureBits(rawValue: protocolBits.load(ordering: .acquiring)) }
    set { protocolBits.store(newValue.rawValue, ordering: .releasing) }
  }
}
