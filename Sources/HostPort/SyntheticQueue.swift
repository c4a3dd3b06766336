// A queue without a device: what is transmitted is dropped, what is received is made up or nothing.
//
// The frames are as real as an interface's, with the same two budgets, so the data path does all
// of its work, including both copies.
import AFXDP
import Glibc
import Linux
import SharedRing
import Synchronization

final class SyntheticQueue: HostPortQueue {
  static let receiveFrames = 256
  static let transmitFrames = FrameBatch.largestCapacity

  let index: Int
  let descriptor: CInt? = nil
  let isAlwaysReadable: Bool
  let framesPerPacket = 1
  private let memory: FrameMemory
  private let state: HotState<State>
  private let longestFrame: UInt32

  private let generated = Atomic<UInt64>(0)
  private let taken = Atomic<UInt64>(0)
  private let takenBytes = Atomic<UInt64>(0)

  private struct State: ~Copyable {
    var receiveFrames: FrameStack
    var transmitFrames: FrameStack
    let layout: FrameLayout
    /// Length of a generated frame; 0: none are generated.
    let generatedLength: UInt32
    /// Sequence number of the next generated frame.
    var sequence: UInt64 = 0
  }

  static func geometry(mtu: Int) -> FrameGeometry {
    FrameGeometry(
      chunkSize: FrameGeometry.unlimitedChunkSize(forMTU: mtu), receiveFrames: receiveFrames,
      transmitFrames: transmitFrames)
  }

  init(port: String, index: Int, geometry: FrameGeometry, source: FrameSource?) throws(PortError) {
    do {
      memory = try FrameMemory(geometry)
    } catch {
      throw PortError(
        "cannot allocate \(geometry.length / 1024) KiB of frame memory for \(port) "
          + "queue \(index): \(error)")
    }
    self.index = index
    isAlwaysReadable = source != nil
    longestFrame = UInt32(geometry.frameRoom)
    state = HotState(
      State(
        receiveFrames: FrameStack(chunks: geometry.receiveChunks),
        transmitFrames: FrameStack(chunks: geometry.transmitChunks), layout: memory.layout,
        generatedLength: UInt32(source?.bytes.count ?? 0)))
    if let source {
      for chunk in geometry.receiveChunks {
        unsafe source.bytes.withUnsafeBytes {
          unsafe memory.layout.pointer(to: UInt32(chunk)).copyMemory(
            from: $0.baseAddress!, byteCount: $0.count)
        }
      }
    }
  }

  var mode: String { isAlwaysReadable ? "generates and drops" : "drops" }

  func receive(into batch: borrowing FrameBatch) {
    let length = state.value.generatedLength
    guard length > 0 else { return }
    let layout = state.value.layout
    let count = min(batch.capacity &- batch.count, state.value.receiveFrames.count)
    generated.store(
      generated.load(ordering: .relaxed) &+ UInt64(count), ordering: .relaxed)
    unsafe batch.append(count: count) {
      let chunk = state.value.receiveFrames.pop()
      let data = unsafe layout.pointer(to: chunk)
      let sequence = state.value.sequence.bigEndian
      unsafe data.storeBytes(
        of: sequence, toByteOffset: FrameSource.sequenceOffset, as: UInt64.self)
      state.value.sequence &+= 1
      return unsafe Frame(data: data, length: length, token: chunk)
    }
  }

  func recycle(_ batch: borrowing FrameBatch) {
    for i in 0..<batch.count { unsafe state.value.receiveFrames.push(batch[i].token) }
    batch.removeAll()
  }

  func reserve(_ most: Int, into batch: borrowing FrameBatch) {
    let layout = state.value.layout
    let room = min(batch.capacity &- batch.count, state.value.transmitFrames.count)
    unsafe batch.append(count: min(most, room)) {
      let chunk = state.value.transmitFrames.pop()
      return unsafe Frame(data: layout.pointer(to: chunk), length: longestFrame, token: chunk)
    }
  }

  func transmit(_ batch: borrowing FrameBatch, count: Int) {
    var bytes: UInt64 = 0
    for i in 0..<batch.count {
      let frame = unsafe batch[i]
      if i < count { bytes &+= unsafe UInt64(frame.length) }
      unsafe state.value.transmitFrames.push(frame.token)
    }
    batch.removeAll()
    taken.store(taken.load(ordering: .relaxed) &+ UInt64(count), ordering: .relaxed)
    takenBytes.store(takenBytes.load(ordering: .relaxed) &+ bytes, ordering: .relaxed)
  }

  func flush() -> Bool { false }

  var statistics: PortStatistics {
    let counters = [
      ("rx_packets", generated.load(ordering: .relaxed)),
      ("dropped_frames", taken.load(ordering: .relaxed)),
      ("dropped_bytes", takenBytes.load(ordering: .relaxed)),
    ]
    return PortStatistics(counters: isAlwaysReadable ? counters : Array(counters.dropFirst()))
  }
}
