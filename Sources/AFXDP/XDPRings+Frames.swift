// Frames on their way between the free lists and the rings.
import SharedRing

extension XDPRings {
  /// Moves free receive frames into the fill ring, as many as there is room for.
  /// - Returns: whether the kernel asks to be told (`XDPSocket.wakeReceive`).
  @inlinable @inline(__always)
  public mutating func refill() -> Bool {
    let slots = fill.reserve(UInt32(truncatingIfNeeded: receiveFrames.count))
    guard slots.count > 0 else { return fill.needsWakeUp }
    for i in 0..<slots.count {
      fill.setAddress(layout.address(of: receiveFrames.pop()), at: slots.first &+ i)
    }
    fill.submit()
    return fill.needsWakeUp
  }

  /// Takes the frames back that the device has sent.
  /// - Returns: entries that named no transmit frame of ours; the kernel never makes one.
  @inlinable @inline(__always)
  public mutating func reap() -> Int {
    let slots = completion.peek(completion.size)
    guard slots.count > 0 else { return 0 }
    var strays = 0
    for i in 0..<slots.count {
      if let chunk = layout.chunk(at: completion.address(at: slots.first &+ i)),
        transmitFrames.count < transmitFrames.capacity
      {
        transmitFrames.push(chunk)
      } else {
        strays &+= 1
      }
    }
    completion.release()
    return strays
  }
}
