// A queue that receives what is transmitted on it.
//
// A frame does not move: transmitting puts it into a line of waiting frames, receiving takes it out
// of there, and when it comes back it may be filled again.  The receive budget bounds the frames
// that wait or are with a receiver, so there is always a transmit budget left, and a guest that
// does not take its frames back loses the newest of them.
//
// Whoever transmits here is the one who receives, so no descriptor could become readable: frames
// that wait are told by `hasFramesWaiting`.
import AFXDP
import Glibc
import Linux
import SharedRing
import Synchronization

final class ReflectQueue: HostPortQueue {
  /// Frames that are on their way back; a power of two.
  static let receiveFrames = 512
  static let transmitFrames = FrameBatch.largestCapacity

  let index: Int
  let mode = "reflects"
  let descriptor: CInt? = nil
  let isAlwaysReadable = false
  let framesPerPacket = 1
  private let memory: FrameMemory
  private let state: HotState<State>
  private let line: FixedBuffer<WaitingFrame>
  private let longestFrame: UInt32

  private let received = Atomic<UInt64>(0)
  private let reflected = Atomic<UInt64>(0)
  private let reflectedBytes = Atomic<UInt64>(0)
  private let dropped = Atomic<UInt64>(0)
  private let droppedBytes = Atomic<UInt64>(0)

  private struct WaitingFrame: BitwiseCopyable {
    var chunk: UInt32
    var length: UInt32
  }

  private struct State: ~Copyable {
    var free: FrameStack
    let layout: FrameLayout
    /// Free-running positions in the line: where the next frame is taken, and where one is put.
    var first: UInt32 = 0
    var end: UInt32 = 0
    /// Frames that wait or are with the receiver.
    var underWay = 0
  }

  static func geometry(mtu: Int) -> FrameGeometry {
    FrameGeometry(
      chunkSize: FrameGeometry.unlimitedChunkSize(forMTU: mtu), receiveFrames: receiveFrames,
      transmitFrames: transmitFrames)
  }

  init(port: String, index: Int, geometry: FrameGeometry) throws(PortError) {
    do {
      memory = try FrameMemory(geometry)
    } catch {
      throw PortError(
        "cannot allocate \(geometry.length / 1024) KiB of frame memory for \(port) "
          + "queue \(index): \(error)")
    }
    self.index = index
    longestFrame = UInt32(geometry.frameRoom)
    line = FixedBuffer(
      repeating: WaitingFrame(chunk: 0, length: 0), count: ReflectQueue.receiveFrames)
    state = HotState(
      State(free: FrameStack(chunks: 0..<geometry.count), layout: memory.layout))
  }

  @inline(__always)
  private func place(_ position: UInt32) -> Int {
    Int(position & UInt32(ReflectQueue.receiveFrames - 1))
  }

  var hasFramesWaiting: Bool { state.value.first != state.value.end }

  func receive(into batch: borrowing FrameBatch) {
    let layout = state.value.layout
    let waiting = Int(state.value.end &- state.value.first)
    let taken = min(batch.capacity &- batch.count, waiting)
    ReflectQueue.add(UInt64(taken), to: received)
    for _ in 0..<taken {
      let frame = line[place(state.value.first)]
      state.value.first &+= 1
      unsafe batch.append(
        Frame(data: layout.pointer(to: frame.chunk), length: frame.length, token: frame.chunk))
    }
  }

  func recycle(_ batch: borrowing FrameBatch) {
    for i in 0..<batch.count { unsafe state.value.free.push(batch[i].token) }
    state.value.underWay &-= batch.count
    batch.removeAll()
  }

  func reserve(_ most: Int, into batch: borrowing FrameBatch) {
    let layout = state.value.layout
    let room = min(batch.capacity &- batch.count, state.value.free.count)
    unsafe batch.append(count: min(most, room)) {
      let chunk = state.value.free.pop()
      return unsafe Frame(data: layout.pointer(to: chunk), length: longestFrame, token: chunk)
    }
  }

  func transmit(_ batch: borrowing FrameBatch, count: Int) {
    let taken = min(count, ReflectQueue.receiveFrames &- state.value.underWay)
    var bytes: (reflected: UInt64, dropped: UInt64) = (0, 0)
    for i in 0..<batch.count {
      let frame = unsafe batch[i]
      let (chunk, length) = unsafe (frame.token, frame.length)
      if i < taken {
        line[place(state.value.end)] = WaitingFrame(chunk: chunk, length: length)
        state.value.end &+= 1
        bytes.reflected &+= UInt64(length)
      } else {
        state.value.free.push(chunk)
        if i < count { bytes.dropped &+= UInt64(length) }
      }
    }
    batch.removeAll()
    state.value.underWay &+= taken
    ReflectQueue.add(UInt64(taken), to: reflected)
    ReflectQueue.add(bytes.reflected, to: reflectedBytes)
    if taken < count {
      ReflectQueue.add(UInt64(count &- taken), to: dropped)
      ReflectQueue.add(bytes.dropped, to: droppedBytes)
    }
  }

  /// One thread writes a counter.
  @inline(__always)
  private static func add(_ amount: UInt64, to counter: borrowing Atomic<UInt64>) {
    counter.store(counter.load(ordering: .relaxed) &+ amount, ordering: .relaxed)
  }

  func flush() -> Bool { false }

  var statistics: PortStatistics {
    let came = received.load(ordering: .relaxed)
    let reflected = reflected.load(ordering: .relaxed)
    return PortStatistics(counters: [
      ("rx_packets", came),
      ("rx_waiting", reflected &- came),
      ("reflected_frames", reflected),
      ("reflected_bytes", reflectedBytes.load(ordering: .relaxed)),
      ("dropped_frames", dropped.load(ordering: .relaxed)),
      ("dropped_bytes", droppedBytes.load(ordering: .relaxed)),
    ])
  }
}
