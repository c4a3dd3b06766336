// One queue of a scripted port.  A test injects and looks from its own thread while a worker moves
// frames, hence the lock.
public import HostPort
public import Linux
import Synchronization

@safe
public final class ScriptedPortQueue: HostPortQueue, @unchecked Sendable {
  public let index: Int
  public var framesPerPacket: Int { options.framesPerPacket }
  public var fillsChecksums: Bool { options.fillsChecksums }
  public let mode = "scripted"
  private let options: ScriptedPort.Options
  private let memory: UnsafeMutableRawPointer
  /// Bytes from a frame to the next, and in front of each.
  private let stride: Int
  private let room: Int
  private let readable: EventDescriptor
  private let state: Mutex<State>

  /// Where a frame is.
  private enum Place: UInt8 {
    case pool, dataPath, queued, sent, completed
  }

  private struct State {
    /// By token; receive frames first.
    var places: [Place]
    var receivePool: [UInt32] = []
    var transmitPool: [UInt32] = []
    /// Filled frames in the transmit ring that no flush has given to the kernel.
    var queued: [UInt32] = []
    /// Lengths of the frames in the transmit ring, by token.
    var lengths: [UInt32]
    var offsets: [Int]
    /// The frame after it in the transmit ring belongs to the same packet, by token.
    var continues: [Bool]
    /// Metadata lies in front of it, by token.
    var requests: [Bool]
    var requestCount = 0
    /// What the kernel has taken of a packet that it has not taken whole.
    var partial: [UInt8] = []
    /// Taken by the kernel, not completed.
    var inKernel: [UInt32] = []
    var incoming: [[UInt8]] = []
    var nextIncoming = 0
    var transmitted: [[UInt8]] = []
    var transmittedCount = 0
    var transmittedBytes = 0
    var receivedCount = 0
    var acceptedCount = 0
    var flushes = 0
    var isLinkDown = false
    var linkDownCount = 0
    /// Of the next packets that leave, as many are refused.
    var refusals = 0
    var refusedCount = 0
    var bulkOutcomes: [BulkOutcome] = []
    var uncut: [(behind: Int, bytes: [UInt8])] = []
    var uncutCount = 0
    var problems: [String] = []

    var waiting: Int { incoming.count - nextIncoming }
  }

  init(index: Int, _ options: ScriptedPort.Options) throws(Errno) {
    self.index = index
    self.options = options
    let frames = options.receiveFrames + options.transmitFrames
    room = options.fillsChecksums ? 64 : 0
    stride = options.frameSize + room
    unsafe memory = .allocate(byteCount: max(1, frames * stride), alignment: 4096)
    unsafe memory.initializeMemory(as: UInt8.self, repeating: 0, count: frames * stride)
    readable = try EventDescriptor()
    var state = State(
      places: Array(repeating: .pool, count: frames), lengths: Array(repeating: 0, count: frames),
      offsets: Array(repeating: 0, count: frames),
      continues: Array(repeating: false, count: frames),
      requests: Array(repeating: false, count: frames))
    state.receivePool = (0..<options.receiveFrames).map { UInt32($0) }
    state.transmitPool = (0..<options.transmitFrames).map { UInt32(options.receiveFrames + $0) }
    state.queued.reserveCapacity(frames)
    state.inKernel.reserveCapacity(frames)
    self.state = Mutex(state)
  }

  deinit { unsafe memory.deallocate() }

  // MARK: For the test

  /// Packets for the guest, in order; received as soon as the data path looks.  One that is longer
  /// than a frame lies in several.
  public func inject(_ frames: [[UInt8]]) {
    precondition(frames.allSatisfy { $0.count <= options.frameSize * options.framesPerPacket })
    state.withLock { $0.incoming += frames }
    readable.signal()
  }

  /// Takes what was sent and flushed since the last time, oldest first.
  public func takeTransmitted() -> [[UInt8]] {
    state.withLock { state in
      defer { state.transmitted.removeAll() }
      return state.transmitted
    }
  }

  public var transmittedCount: Int { state.withLock { $0.transmittedCount } }
  public var transmittedBytes: Int { state.withLock { $0.transmittedBytes } }
  /// Packets handed to the data path by `receive`.
  public var receivedCount: Int { state.withLock { $0.receivedCount } }
  /// Injected frames that nobody has received.
  public var waitingCount: Int { state.withLock { $0.waiting } }
  public var flushCount: Int { state.withLock { $0.flushes } }

  /// Completes sent frames, oldest first (without `completesAtOnce`).
  public func complete(_ most: Int = .max) {
    state.withLock { state in
      let count = min(most, state.inKernel.count)
      for token in state.inKernel.prefix(count) { state.places[Int(token)] = .completed }
      state.inKernel.removeFirst(count)
    }
  }

  /// Frames in the hands of the data path: none when it is at rest, except for a batch that it may
  /// hold for want of guest buffers.
  public var framesInDataPath: Int {
    state.withLock { state in state.places.count { $0 == .dataPath } }
  }
  /// Every frame is back in its pool (a sent one at least completed), or still with the kernel.
  public var isComplete: Bool {
    state.withLock { state in
      state.problems.isEmpty && !state.places.contains(.dataPath) && state.queued.isEmpty
    }
  }
  /// What the data path did wrong, in words.
  public var problems: [String] { state.withLock { $0.problems } }

  /// Fills all frame memory, with what lies in front of each frame, as if somebody's packets had been
  /// everywhere.  No frame is in use.
  public func fillMemory(with byte: UInt8) {
    let count = stride * (options.receiveFrames + options.transmitFrames)
    unsafe memory.initializeMemory(as: UInt8.self, repeating: byte, count: count)
  }

  /// Takes the link away: what is transmitted is dropped, as by an interface that is down.
  public func setLinkDown(_ isDown: Bool) { state.withLock { $0.isLinkDown = isDown } }

  /// The device refuses the next `count` packets that a flush gives it.
  public func refuse(_ count: Int) { state.withLock { $0.refusals = count } }

  /// What is said to the next packets that are to leave uncut; to all others: taken.
  public func setBulkOutcomes(_ outcomes: [BulkOutcome]) {
    state.withLock { $0.bulkOutcomes = outcomes.reversed() }
  }

  /// Takes the packets that left uncut since the last time: virtio-net header and packet, and how many
  /// frames had been given to `transmit` before.
  public func takeUncut() -> [(behind: Int, bytes: [UInt8])] {
    state.withLock { state in
      defer { state.uncut.removeAll() }
      return state.uncut
    }
  }

  /// Packets that left their checksum to the device.
  public var checksumRequestCount: Int { state.withLock { $0.requestCount } }

  /// What a device makes of the metadata in front of `frame`.
  private func fillChecksum(_ frame: UnsafeMutableRawPointer, _ state: inout State) {
    let metadata = unsafe frame - 24
    let flags = unsafe metadata.loadUnaligned(as: UInt64.self)
    let from = unsafe Int(metadata.loadUnaligned(fromByteOffset: 8, as: UInt16.self))
    let field =
      unsafe from + Int(metadata.loadUnaligned(fromByteOffset: 10, as: UInt16.self))
    guard options.fillsChecksums, flags == 2, from >= 14, field + 2 <= state.partial.count else {
      state.problems.append("flush: metadata with flags \(flags), \(from), \(field)")
      return
    }
    state.requestCount += 1
    var sum = 0
    for i in from..<state.partial.count {
      sum += Int(state.partial[i]) << ((i - from) % 2 == 0 ? 8 : 0)
    }
    while sum > 0xffff { sum = sum >> 16 + sum & 0xffff }
    let checksum = sum == 0xffff ? 0xffff : ~sum & 0xffff
    state.partial[field] = UInt8(checksum >> 8)
    state.partial[field + 1] = UInt8(checksum & 0xff)
  }

  /// First byte of a frame.
  private func data(of token: UInt32) -> UnsafeMutableRawPointer {
    unsafe memory + Int(token) * stride + room
  }

  // MARK: HostPortQueue

  public var bulkLane: BulkLane? { options.bulkLane }

  public func sendUncut(_ packet: borrowing GatheredPacket, isRepeatable: Bool) -> BulkOutcome {
    let bytes = packet.bytes
    return state.withLock { state in
      let outcome = state.bulkOutcomes.popLast() ?? .taken
      if outcome == .taken {
        state.uncut.append((state.queued.count + state.transmittedCount, bytes))
        state.uncutCount += 1
      }
      return outcome
    }
  }

  public var descriptor: CInt? { options.endlessFrameLength > 0 ? nil : readable.raw }
  public var isAlwaysReadable: Bool { options.endlessFrameLength > 0 }

  public func receive(into batch: borrowing FrameBatch) {
    state.withLock { state in
      while true {
        let length: Int
        if options.endlessFrameLength > 0 {
          length = options.endlessFrameLength
        } else if state.waiting > 0 {
          length = state.incoming[state.nextIncoming].count
        } else {
          break
        }
        let frames = max(1, (length + options.frameSize - 1) / options.frameSize)
        guard batch.count + frames <= batch.capacity, frames <= state.receivePool.count else {
          break
        }
        var start = 0
        for number in 1...frames {
          let part = min(options.frameSize, length - start)
          let token = state.receivePool.removeLast()
          let place = unsafe data(of: token)
          if options.endlessFrameLength == 0 {
            unsafe state.incoming[state.nextIncoming].withUnsafeBytes {
              guard let base = $0.baseAddress else { return }
              unsafe place.copyMemory(from: base + start, byteCount: part)
            }
          }
          start += part
          state.places[Int(token)] = .dataPath
          unsafe batch.append(
            Frame(data: place, length: UInt32(part), token: token, continues: number < frames))
        }
        state.receivedCount += 1
        if options.endlessFrameLength == 0 { state.nextIncoming += 1 }
      }
      if state.nextIncoming == state.incoming.count, state.nextIncoming > 0 {
        state.incoming.removeAll(keepingCapacity: true)
        state.nextIncoming = 0
      }
      // Readable as long as frames wait, like a socket.
      if state.waiting == 0 { readable.drain() }
    }
  }

  public func recycle(_ batch: borrowing FrameBatch) {
    state.withLock { state in
      for i in 0..<batch.count {
        let token = unsafe batch[i].token
        guard take(token, receive: true, "recycle", &state) else { continue }
        state.places[Int(token)] = .pool
        state.receivePool.append(token)
      }
    }
    batch.removeAll()
  }

  public func reserve(_ most: Int, into batch: borrowing FrameBatch) {
    state.withLock { state in
      for token in options.receiveFrames..<state.places.count
      where state.places[token] == .completed {
        state.places[token] = .pool
        state.transmitPool.append(UInt32(token))
      }
      var count = 0
      while count < most, !batch.isFull, let token = state.transmitPool.popLast() {
        state.places[Int(token)] = .dataPath
        unsafe batch.append(
          Frame(
            data: data(of: token), length: UInt32(options.frameSize), token: token))
        count += 1
      }
    }
  }

  public func transmit(_ batch: borrowing FrameBatch, count: Int) {
    state.withLock { state in
      if count > batch.count { state.problems.append("transmit: \(count) of \(batch.count)") }
      var frames = 0
      for i in 0..<batch.count {
        let frame = unsafe batch[i]
        let token = unsafe frame.token
        guard take(token, receive: false, "transmit", &state) else { continue }
        if i >= count || state.isLinkDown {
          state.places[Int(token)] = .pool
          state.transmitPool.append(token)
          if unsafe i < count && !frame.continues { state.linkDownCount += 1 }
          continue
        }
        let offset = unsafe frame.data - data(of: token)
        let length = unsafe Int(frame.length)
        guard offset >= 0, length > 0, offset + length <= options.frameSize else {
          state.problems.append("transmit: frame \(token) is \(length) bytes at offset \(offset)")
          state.places[Int(token)] = .completed
          continue
        }
        state.offsets[Int(token)] = offset
        state.lengths[Int(token)] = UInt32(length)
        state.continues[Int(token)] = unsafe frame.continues
        state.requests[Int(token)] = unsafe frame.hasMetadata
        frames += 1
        if frames > options.framesPerPacket {
          state.problems.append("transmit: a packet of \(frames) frames")
        }
        if unsafe !frame.continues {
          frames = 0
          state.acceptedCount += 1
        } else if i == count - 1 {
          state.problems.append("transmit: half a packet")
        }
        state.places[Int(token)] = .queued
        state.queued.append(token)
      }
    }
    batch.removeAll()
  }

  public func flush() -> Bool {
    state.withLock { state in
      state.flushes += 1
      let count = min(options.framesPerFlush, state.queued.count)
      for token in state.queued.prefix(count) {
        let length = Int(state.lengths[Int(token)])
        let isEnd = !state.continues[Int(token)]
        let isRefused = state.refusals > 0
        if isEnd && isRefused {
          state.refusals -= 1
          state.refusedCount += 1
          state.partial = []
        } else if isEnd {
          state.transmittedCount += 1
        }
        if !isRefused { state.transmittedBytes += length }
        if options.records && !isRefused {
          let start = unsafe data(of: token) + state.offsets[Int(token)]
          let isStart = state.partial.isEmpty
          unsafe state.partial += UnsafeRawBufferPointer(start: start, count: length)
          if state.requests[Int(token)] {
            if !isStart || !isEnd { state.problems.append("flush: metadata of several frames") }
            unsafe fillChecksum(start, &state)
          }
          if isEnd {
            state.transmitted.append(state.partial)
            state.partial = []
          }
        }
        if options.completesAtOnce {
          state.places[Int(token)] = .completed
        } else {
          state.places[Int(token)] = .sent
          state.inKernel.append(token)
        }
      }
      state.queued.removeFirst(count)
      return !state.queued.isEmpty
    }
  }

  public var statistics: PortStatistics {
    state.withLock {
      PortStatistics(counters: [
        ("rx_packets", UInt64($0.receivedCount)), ("tx_packets", UInt64($0.acceptedCount)),
        ("link_down", UInt64($0.linkDownCount)), ("device_refused", UInt64($0.refusedCount)),
        ("bulk_packets", UInt64($0.uncutCount)),
      ])
    }
  }

  /// Whether the data path may give this frame back here; if not, that is a problem to report.
  private func take(
    _ token: UInt32, receive: Bool, _ verb: String, _ state: inout State
  ) -> Bool {
    let range =
      receive ? 0..<options.receiveFrames : options.receiveFrames..<state.places.count
    guard range.contains(Int(token)) else {
      state.problems.append("\(verb): no frame \(token) of this kind")
      return false
    }
    guard state.places[Int(token)] == .dataPath else {
      state.problems.append("\(verb): frame \(token) is \(state.places[Int(token)])")
      return false
    }
    return true
  }
}
