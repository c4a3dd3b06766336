// A guest's side of a vhost-user device: its memory, what is negotiated, its queue pairs.
import GuestDriver
import GuestMemory
import Linux
import Virtqueue

struct BenchError: Error, CustomStringConvertible {
  let description: String
  init(_ description: String) { self.description = description }
}

final class Guest<Ring: PollingRing & ~Copyable> {
  let frontEnd: FrontEnd
  let ram: GuestRAM
  let pairs: [QueuePair<Ring>]

  init(_ options: DeviceOptions) throws {
    let frontEnd = try FrontEnd.connect(options.backEnd, addsMemoryByRegion: options.regions > 8)
    self.frontEnd = frontEnd
    let features = try frontEnd.negotiate(options.backEnd, [.mrgRxbuf])
    ram = try Guest.memory(options)
    try Guest.give(ram, to: frontEnd, options)
    var generator = SeededGenerator(seed: 1)
    var pairs: [QueuePair<Ring>] = []
    for index in 0..<options.queues {
      pairs.append(
        try QueuePair(
          index, in: ram, options, eventIdx: features.contains(.ringEventIdx),
          generator: &generator))
    }
    for pair in pairs { try pair.start(frontEnd, ram) }
    self.pairs = pairs
  }

  private static func memory(_ options: DeviceOptions) throws -> GuestRAM {
    let ringSize = options.backEnd.queueSize
    let perPair =
      BufferCycle.stride(room: options.transmitRoom) + BufferCycle.stride(room: options.receiveRoom)
    let buffers = BufferCycle.count(ringSize: ringSize)
    let share = (buffers + options.regions - 1) / options.regions * perPair * options.queues
    let rings = (2 * Ring.bytes(size: ringSize) * options.queues + 4095) / 4096 * 4096
    // Not adjacent, or a back-end could make one of several.
    let distance = UInt64(share + rings + 4096)
    return try GuestRAM(
      (0..<options.regions).map { region in
        (0x10_0000 + UInt64(region) * distance, UInt64(share + (region == 0 ? rings : 0)))
      }, sealed: true)
  }

  private static func give(
    _ ram: GuestRAM, to frontEnd: FrontEnd, _ options: DeviceOptions
  ) throws {
    if options.regions > 8 {
      let socket = options.backEnd.socket
      guard frontEnd.protocolFeatures.contains(.configureMemSlots) else {
        throw BenchError(
          "\(socket): the back-end takes no more than 8 regions (no CONFIGURE_MEM_SLOTS)")
      }
      let slots = try frontEnd.askInteger(.getMaxMemSlots)
      guard slots >= UInt64(options.regions) else {
        throw BenchError("\(socket): the back-end takes no more than \(slots) regions")
      }
    }
    try frontEnd.setMemory(ram)
  }

  /// Takes the rings back, as a guest that shuts down.
  func stop() {
    for ring in 0..<2 * pairs.count { _ = try? frontEnd.vringBase(ring) }
  }
}

extension FrontEnd {
  /// A front-end of a back-end that listens, or soon will.
  static func connect(
    _ options: BackEndOptions, addsMemoryByRegion: Bool = false
  ) throws -> FrontEnd {
    var abilities = FrontEnd.Abilities()
    // Without STATUS, which means that a back-end waits for a driver's word.
    abilities.protocolFeatures = [.multiqueue, .replyAck, .configureMemSlots]
    abilities.addsMemoryByRegion = addsMemoryByRegion
    do {
      return try connect(path: options.socket, seconds: options.connectTimeout, abilities)
    } catch .timeout {
      throw BenchError(
        "nobody listens at \(options.socket) after \(options.connectTimeout) s: start the back-end "
          + "first, or give a longer --connect-timeout")
    } catch {
      throw BenchError("cannot connect to \(options.socket): \(error)")
    }
  }

  /// Negotiates the rings that the options ask for, and of `more` what is offered.
  func negotiate(_ options: BackEndOptions, _ more: VirtioFeatures) throws -> VirtioFeatures {
    var wanted = more.union(.version1)
    if options.packed { wanted.insert(.ringPacked) }
    if !options.noEventIdx { wanted.insert(.ringEventIdx) }
    let features = try negotiate(wanted)
    guard features.contains(.version1) else {
      throw BenchError("\(options.socket): the back-end does not offer VERSION_1")
    }
    guard options.packed == features.contains(.ringPacked) else {
      throw BenchError("\(options.socket): the back-end does not offer packed rings (RING_PACKED)")
    }
    return features
  }

  /// Gives a ring to the back-end.
  /// - Parameter base: where it goes on; nil: it is a new one.
  func start(
    _ ring: Int, size: Int, _ place: RingPlace, base: UInt32? = nil, in ram: GuestRAM,
    kick: EventDescriptor, call: EventDescriptor
  ) throws {
    try configure(
      ring, size: size, base: base ?? place.base, in: ram, descriptors: place.descriptors,
      avail: place.avail, used: place.used)
    try setDescriptor(.setVringCall, ring, call.raw)
    try setDescriptor(.setVringKick, ring, kick.raw)
    if features.contains(.protocolFeatures) { try enable(ring) }
  }
}
