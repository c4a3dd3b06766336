// Frames as byte arrays, and what a port queue does with them.
import Glibc

@testable import HostPort

/// An Ethernet frame of `size` bytes whose contents tell its number.
func frame(
  to destination: [UInt8] = [2, 0, 0, 0, 0, 0xaa], size: Int = 60, number: Int = 0
) -> [UInt8] {
  var bytes = destination + [2, 0, 0, 0, 0, 1, 0x88, 0xb5]
  bytes += (0..<size - 14).map { UInt8(truncatingIfNeeded: $0 &* 7 &+ number &* 31) }
  for i in 0..<4 { bytes[14 + i] = UInt8(truncatingIfNeeded: number >> (8 * i)) }
  return bytes
}

extension HostPortQueue {
  /// Sends the frames, flushing until the kernel has taken them; returns how many found room.
  @discardableResult
  func send(_ frames: [[UInt8]]) -> Int {
    let batch = FrameBatch()
    var sent = 0
    while sent < frames.count {
      reserve(min(frames.count - sent, batch.capacity), into: batch)
      let count = batch.count
      if count == 0 { break }
      for i in 0..<count {
        let bytes = frames[sent + i]
        unsafe batch[i].data.copyMemory(from: bytes, byteCount: bytes.count)
        unsafe batch[i].length = UInt32(bytes.count)
      }
      transmit(batch, count: count)
      sent += count
      for _ in 0..<1000 where flush() { usleep(100) }
    }
    return sent
  }

  /// Receives until `count` frames have come or `milliseconds` have passed without one.
  func collect(_ count: Int, milliseconds: Int = 500) -> [[UInt8]] {
    let batch = FrameBatch()
    var frames: [[UInt8]] = []
    var idle = 0
    while frames.count < count, idle < milliseconds {
      receive(into: batch)
      if batch.count == 0 {
        usleep(1000)
        idle += 1
        continue
      }
      idle = 0
      for i in 0..<batch.count {
        let frame = unsafe batch[i]
        frames.append(
          unsafe Array(UnsafeRawBufferPointer(start: frame.data, count: Int(frame.length))))
      }
      recycle(batch)
    }
    return frames
  }

  /// Transmit frames that can be reserved at once; all are given back.
  func freeTransmitFrames(milliseconds: Int = 200, expecting expected: Int) -> Int {
    var found = 0
    for _ in 0..<milliseconds {
      let all = FrameBatch(capacity: 8192)
      reserve(8192, into: all)
      found = all.count
      transmit(all, count: 0)
      if found >= expected { break }
      usleep(1000)
    }
    return found
  }
}

extension PortStatistics {
  subscript(name: String) -> UInt64? { counters.first { $0.name == name }?.value }
}
