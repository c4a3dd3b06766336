// A guest at native speed: the network stack of this kernel behind a tap device, in place of the one
// of a virtual machine.  What the stack sends is read from the tap right into the transmit ring's
// buffers; what the receive ring brings is written to the tap right out of its buffers.  Both with
// the virtio-net header as it is: a tap has the same.
//
// The buffers of the transmit ring are used last in, first out, as a kernel's allocator gives pages,
// so that they stay in the cache as far as the load allows.
import Glibc
import GuestDriver
import GuestMemory
import Linux
import SharedRing
import Virtqueue

final class TapGuest<Ring: PollingRing & ~Copyable> {
  let features: VirtioFeatures
  private let frontEnd: FrontEnd
  private let ram: GuestRAM
  private let tap: TapDevice
  private let size: Int
  private let spin: UInt64
  private let transmit: Ring
  private let receive: Ring
  private let transmitKick: EventDescriptor
  private let receiveKick: EventDescriptor
  private let transmitCall: EventDescriptor
  private let receiveCall: EventDescriptor
  private let transmitBuffers: TapBuffers
  private let receiveBuffers: TapBuffers
  private let vectors = TapVectors(count: 1024)
  private let state = HotState(State())
  let counts = HotState(TapCounts())

  private struct State {
    /// Of what was read and is not yet published.
    var unpublished = 0
    var unpublishedBytes = 0
    /// Of the packet that is being taken from the receive ring: buffers so far, and in all.
    var taken = 0
    var wanted = 0
    /// Places in the ring so far, for the buffer that was put there.
    var transmitPut = 0
    var transmitTaken = 0
    var receivePut = 0
    var receiveTaken = 0
  }

  /// A turn publishes whenever it has read this much: the device has something to do meanwhile.
  private static var publishedPackets: Int { 16 }
  private static var publishedBytes: Int { 64 << 10 }
  /// Neither direction waits for more than this of the other.
  private static var packetsPerTurn: Int { 64 }

  init(_ options: BackEndOptions, _ tapOptions: TapOptions) throws {
    tap = try TapDevice(tapOptions.interface, mergesReceived: tapOptions.napi)
    frontEnd = try FrontEnd.connect(options)
    features = try frontEnd.negotiate(options, tapOptions.wantedFeatures)
    try tap.setOffloads(features)
    size = options.queueSize
    spin = UInt64(tapOptions.spinUs * 1000)
    let large: VirtioFeatures = [.hostTSO4, .hostTSO6, .hostUSO]
    let transmitRoom = features.isDisjoint(with: large) ? 9216 : TapOptions.largest
    let receiveRoom = tapOptions.receiveRoom(features)
    let stride = TapBuffers.stride(room: transmitRoom) + TapBuffers.stride(room: receiveRoom)
    let rings = (2 * Ring.bytes(size: size) + 4095) / 4096 * 4096
    ram = try GuestRAM([(0x10_0000, UInt64(stride * size + rings))], sealed: true)
    let eventIdx = features.contains(.ringEventIdx)
    receive = Ring(in: ram, size: size, writable: true, eventIdx: eventIdx)
    transmit = Ring(in: ram, size: size, writable: false, eventIdx: eventIdx)
    transmitBuffers = TapBuffers(in: ram, room: transmitRoom, count: size)
    receiveBuffers = TapBuffers(in: ram, room: receiveRoom, count: size)
    transmitKick = try EventDescriptor()
    receiveKick = try EventDescriptor()
    transmitCall = try EventDescriptor()
    receiveCall = try EventDescriptor()
    try frontEnd.setMemory(ram)
    replenish()
    try frontEnd.start(
      0, size: size, receive.place, in: ram, kick: receiveKick, call: receiveCall)
    try frontEnd.start(
      1, size: size, transmit.place, in: ram, kick: transmitKick, call: transmitCall)
    receiveKick.signal()
  }

  /// Takes the rings back, as a guest that shuts down.
  func stop() {
    for ring in 0..<2 { _ = try? frontEnd.vringBase(ring) }
  }

  /// Moves packets until `stop` is signalled.
  /// - Throws: when the back-end hangs up.
  func run(until stop: EventDescriptor) throws {
    var turns = 0
    var idleSince: UInt64 = 0
    while true {
      let work = turn()
      turns &+= 1
      // Also when there is no end of packets.
      if turns & 0xfff == 0, stop.drain() { return }
      guard !work else {
        idleSince = 0
        continue
      }
      if spin > 0 {
        let time = now()
        if idleSince == 0 { idleSince = time }
        if time &- idleSince < spin {
          for _ in 0..<16 { spinPause() }
          continue
        }
        idleSince = 0
      }
      if try sleep(stop) { return }
    }
  }

  /// Returns whether anything moved.
  @inline(never)
  private func turn() -> Bool {
    let reaped = reap()
    let sent = send()
    return deliver() || sent || reaped
  }

  // MARK: To the device

  @inline(__always)
  private func reap() -> Bool {
    var any = false
    while transmit.used() >= 0 {
      transmitBuffers.giveBack(state.value.transmitTaken & (size &- 1))
      state.value.transmitTaken &+= 1
      any = true
    }
    return any
  }

  @inline(__always)
  private func send() -> Bool {
    var packets = 0
    while packets < Self.packetsPerTurn, transmit.free > 0 {
      let buffer = transmitBuffers.last
      let length = unsafe read(tap.raw, buffer.bytes, transmitBuffers.room)
      guard length > FrameTemplate.header else {
        if length < 0, errno != EAGAIN, errno != EINTR {
          giveUp("the tap cannot be read: \(Errno.current)")
        }
        break
      }
      packets &+= 1
      counts.value.transmitted &+= 1
      counts.value.transmittedBytes &+= length &- FrameTemplate.header
      if unsafe buffer.bytes.load(fromByteOffset: 1, as: UInt8.self) != 0 {
        counts.value.transmittedLarge &+= 1
      }
      transmitBuffers.take(at: state.value.transmitPut & (size &- 1))
      state.value.transmitPut &+= 1
      transmit.add(buffer.address, UInt32(truncatingIfNeeded: length))
      state.value.unpublished &+= 1
      state.value.unpublishedBytes &+= length
      if state.value.unpublished >= Self.publishedPackets
        || state.value.unpublishedBytes >= Self.publishedBytes
      {
        publish()
        // For what is read next: that buffer is in the cache.
        _ = reap()
      }
    }
    if state.value.unpublished > 0 { publish() }
    return packets > 0
  }

  private func publish() {
    state.value.unpublished = 0
    state.value.unpublishedBytes = 0
    transmit.publish()
    if transmit.wantsKick() { kick(transmitKick) }
  }

  private func kick(_ descriptor: EventDescriptor) {
    descriptor.signal()
    counts.value.kicks &+= 1
  }

  // MARK: From the device

  /// Whole packets to the tap, and their buffers back to the ring.
  @inline(__always)
  private func deliver() -> Bool {
    var packets = 0
    var any = false
    while packets < Self.packetsPerTurn {
      let length = receive.used()
      guard length >= 0 else { break }
      any = true
      let buffer = receiveBuffers.held(state.value.receiveTaken & (size &- 1))
      guard length <= receiveBuffers.room else {
        giveUp("the back-end wrote \(length) bytes to a buffer of \(receiveBuffers.room)")
      }
      state.value.receiveTaken &+= 1
      if state.value.taken == 0 {
        guard length >= FrameTemplate.header else {
          giveUp("the back-end wrote \(length) bytes, less than a header")
        }
        let number = unsafe buffer.bytes.load(fromByteOffset: 10, as: UInt16.self)
        // Without mergeable buffers the field is nobody's.
        state.value.wanted = features.contains(.mrgRxbuf) ? Int(number) : 1
        guard (1...min(size, vectors.count)).contains(state.value.wanted) else {
          giveUp("the back-end says num_buffers \(number), in a ring of \(size)")
        }
      }
      unsafe vectors.set(state.value.taken, buffer.bytes, length)
      state.value.taken &+= 1
      counts.value.receivedBytes &+= length
      if state.value.taken == state.value.wanted {
        write()
        packets &+= 1
      }
    }
    if any { replenish() }
    return any
  }

  private func write() {
    let count = state.value.taken
    counts.value.received &+= 1
    counts.value.receivedBytes &-= FrameTemplate.header
    counts.value.receivedBuffers &+= count
    if vectors.segmentation != 0 { counts.value.receivedLarge &+= 1 }
    if vectors.write(count, to: tap.raw) < 0 { counts.value.refuse(errno) }
    for i in (state.value.receiveTaken &- count)..<state.value.receiveTaken {
      receiveBuffers.giveBack(i & (size &- 1))
    }
    state.value.taken = 0
  }

  /// Gives the device every buffer that it does not have, and that is not of a packet under way.
  private func replenish() {
    var any = false
    while receive.free > 0, receiveBuffers.hasFree {
      let buffer = receiveBuffers.last
      receiveBuffers.take(at: state.value.receivePut & (size &- 1))
      state.value.receivePut &+= 1
      receive.add(buffer.address, UInt32(truncatingIfNeeded: receiveBuffers.room))
      any = true
    }
    guard any else { return }
    receive.publish()
    if receive.wantsKick() { kick(receiveKick) }
  }

  // MARK: Sleep

  /// Sleeps until there is something to do; returns whether that is to stop.
  private func sleep(_ stop: EventDescriptor) throws -> Bool {
    receive.awaitCall(after: 1)
    let isFull = transmit.free == 0
    // A ring that is full is refilled when a part of it is free.
    if isFull { transmit.awaitCall(after: max(1, size / 4)) }
    defer {
      receive.suppressCalls()
      if isFull { transmit.suppressCalls() }
    }
    if receive.hasUsed || (isFull && transmit.hasUsed) { return false }
    counts.value.sleeps &+= 1
    let readable = Int16(POLLIN)
    var wanted = [
      pollfd(fd: stop.raw, events: readable, revents: 0),
      pollfd(fd: frontEnd.socket.raw, events: readable, revents: 0),
      pollfd(fd: receiveCall.raw, events: readable, revents: 0),
      pollfd(fd: transmitCall.raw, events: readable, revents: 0),
      // A negative one is left out.
      pollfd(fd: isFull ? -1 : tap.raw, events: readable, revents: 0),
    ]
    let count = nfds_t(wanted.count)
    guard unsafe poll(&wanted, count, -1) > 0 else { return false }
    if wanted[1].revents != 0 { throw BenchError("the back-end hung up") }
    if wanted[2].revents != 0 { receiveCall.drain() }
    if wanted[3].revents != 0 { transmitCall.drain() }
    return wanted[0].revents != 0 && stop.drain()
  }
}
