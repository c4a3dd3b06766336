// A receive and a transmit queue of the benchmark's guest, with frames in their buffers.
//
// All that is mutable is behind `HotState`: the class itself is read only.
import GuestDriver
import GuestMemory
import Linux
import SharedRing

final class QueuePair<Ring: PollingRing & ~Copyable> {
  private let index: Int
  private let size: Int
  let transmit: Ring
  let receive: Ring
  private let transmitBuffers: BufferCycle
  private let receiveBuffers: BufferCycle
  private let transmitKick: EventDescriptor
  private let receiveKick: EventDescriptor
  /// The back-end's calls, which nobody reads.
  private let call: EventDescriptor
  private let kickCount = HotState(0)
  private let template: FrameTemplate

  init(
    _ index: Int, in ram: GuestRAM, _ options: DeviceOptions, eventIdx: Bool,
    generator: inout SeededGenerator
  ) throws {
    self.index = index
    size = options.backEnd.queueSize
    receive = Ring(in: ram, size: size, writable: true, eventIdx: eventIdx)
    transmit = Ring(in: ram, size: size, writable: false, eventIdx: eventIdx)
    receiveBuffers = BufferCycle(
      in: ram, room: options.receiveRoom, ringSize: size, generator: &generator)
    transmitBuffers = BufferCycle(
      in: ram, room: options.transmitRoom, ringSize: size, generator: &generator)
    transmitKick = try EventDescriptor()
    receiveKick = try EventDescriptor()
    call = try EventDescriptor()
    template = FrameTemplate(size: options.size)
    for i in 0..<transmitBuffers.count { unsafe template.write(to: transmitBuffers[i].bytes) }
  }

  /// Gives the rings to the back-end, the receive ring full of buffers.
  func start(_ frontEnd: FrontEnd, _ ram: GuestRAM) throws {
    while receive.free > 0 { addReceiveBuffer() }
    receive.publish()
    try frontEnd.start(
      2 * index, size: size, receive.place, in: ram, kick: receiveKick, call: call)
    try frontEnd.start(
      2 * index + 1, size: size, transmit.place, in: ram, kick: transmitKick, call: call)
    receiveKick.signal()
  }

  /// Takes a ring back from the back-end, and gives it again where it stopped.
  ///
  /// All that the back-end had taken must have come back by then.
  /// - Returns: chains of the transmit ring that came back meanwhile, frames that were received.
  func restart(
    transmits: Bool, _ frontEnd: FrontEnd, _ ram: GuestRAM
  ) throws -> (sent: Int, received: Received) {
    let ring = 2 * index + (transmits ? 1 : 0)
    let base = try frontEnd.vringPosition(ring)
    let sent = transmits ? reap() : 0
    let received = transmits ? Received() : takeReceived()
    let position = transmits ? transmit.position : receive.position
    guard base == position else {
      throw BenchError("ring \(ring) stopped at \(base), where the used ring says \(position)")
    }
    let (place, kick) =
      transmits ? (transmit.place, transmitKick) : (receive.place, receiveKick)
    try frontEnd.start(ring, size: size, place, base: base, in: ram, kick: kick, call: call)
    kick.signal()
    return (sent, received)
  }

  /// What was received: frames of this driver, which came back, and others.
  struct Received {
    var own = 0
    var others = 0

    static func += (sum: inout Received, more: Received) {
      sum.own += more.own
      sum.others += more.others
    }
  }

  /// Takes whatever was received, and gives the buffers again.
  func takeReceived() -> Received {
    var received = Received()
    while true {
      let length = receive.used()
      guard length >= 0 else { return received }
      if unsafe template.number(of: receiveBuffers.take().bytes, length: length) != nil {
        received.own += 1
      } else {
        received.others += 1
      }
      replenish()
    }
  }

  /// Frames that the back-end was given and that have not come back.
  var underWay: Int { size - transmit.free }

  /// Kicks so far.
  var kicks: Int { kickCount.value }

  // MARK: To the device

  /// Writes a frame with this number and puts it into the ring, where there must be a place.
  @inline(__always)
  func prepare(_ number: UInt64) {
    let buffer = transmitBuffers.put()
    unsafe FrameTemplate.number(buffer.bytes, number)
    transmit.add(buffer.address, UInt32(truncatingIfNeeded: template.length))
  }

  /// Makes prepared frames visible, and kicks if the device wants that.
  @inline(__always)
  func send() {
    transmit.publish()
    if transmit.wantsKick() { kick(transmitKick) }
  }

  @inline(never)
  private func kick(_ descriptor: EventDescriptor) {
    descriptor.signal()
    kickCount.value &+= 1
  }

  /// Takes back what the device has sent.  Returns how many frames.
  @inline(__always)
  func reap() -> Int {
    var count = 0
    while transmit.used() >= 0 { count &+= 1 }
    return count
  }

  // MARK: From the device

  @inline(__always)
  private func addReceiveBuffer() {
    receive.add(receiveBuffers.put().address, UInt32(truncatingIfNeeded: receiveBuffers.room))
  }

  /// The number of the frame that was received in `length` bytes, which must be one of ours.
  @inline(__always)
  func read(_ length: Int) -> UInt64 {
    guard let number = unsafe template.number(of: receiveBuffers.take().bytes, length: length)
    else { giveUp("what came back is not what was sent (\(length) bytes with header)") }
    return number
  }

  /// Gives the device a buffer for the one that was read.
  @inline(__always)
  func replenish() {
    addReceiveBuffer()
    receive.publish()
    if receive.wantsKick() { kick(receiveKick) }
  }
}
