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

/// Waits until something became true, at most a minute.
func eventually(_ condition: () -> Bool) -> Bool {
  for _ in 0..<6000 {
    if condition() { return true }
    usleep(10_000)
  }
  return false
}

extension FrameBatch {
  /// Writes a packet over as many reserved frames as it needs, from `index` on; returns how many,
  /// or nil if there are too few.
  func write(_ bytes: [UInt8], at index: Int) -> Int? {
    var index = index
    let first = index
    var start = 0
    repeat {
      guard index < count else { return nil }
      let part = unsafe min(bytes.count - start, Int(self[index].length))
      unsafe bytes.withUnsafeBytes {
        unsafe self[index].data.copyMemory(from: $0.baseAddress! + start, byteCount: part)
      }
      start += part
      unsafe self[index].length = UInt32(part)
      unsafe self[index].continues = start < bytes.count
      index += 1
    } while start < bytes.count
    return index - first
  }
}

extension HostPortQueue {
  /// Sends the frames, flushing until the kernel has taken them; returns how many found room.
  @discardableResult
  func send(_ frames: [[UInt8]]) -> Int {
    let batch = FrameBatch()
    var sent = 0
    while sent < frames.count {
      reserve(min((frames.count - sent) * framesPerPacket, batch.capacity), into: batch)
      var filled = 0
      let before = sent
      while sent < frames.count, let used = batch.write(frames[sent], at: filled) {
        filled += used
        sent += 1
      }
      transmit(batch, count: filled)
      if sent == before { break }
      for _ in 0..<10_000 {
        if !flush() { break }
        usleep(100)
      }
    }
    return sent
  }

  /// Receives until `count` frames have come or `milliseconds` have passed without one.  A thread of the
  /// kernel may have to bring them, which waits for a CPU as others do.
  func collect(_ count: Int, milliseconds: Int = 5000) -> [[UInt8]] {
    let batch = FrameBatch()
    var frames: [[UInt8]] = []
    var packet: [UInt8] = []
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
        unsafe packet += UnsafeRawBufferPointer(start: frame.data, count: Int(frame.length))
        if unsafe !frame.continues {
          frames.append(packet)
          packet = []
        }
      }
      // A packet never straddles two batches.
      if !packet.isEmpty { return [] }
      recycle(batch)
    }
    return frames
  }

  /// Transmit frames that can be reserved at once; all are given back.
  func freeTransmitFrames(milliseconds: Int = 5000, expecting expected: Int) -> Int {
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
  /// What counts anything but packets that went their way.
  var troubles: [String] {
    counters.filter { $0.value > 0 && !["rx_packets", "tx_packets"].contains($0.name) }
      .map { "\($0.name) \($0.value)" }
  }

  subscript(name: String) -> UInt64? { counters.first { $0.name == name }?.value }
}
