// The frame that is sent, and how it is told that one that came back is the same.
import Glibc

/// A frame behind its virtio-net header, in guest memory: everything but its number, and the place
/// where that goes.
@safe
struct FrameTemplate: ~Copyable {
  /// Bytes of the virtio-net header of a device with VERSION_1.
  static let header = 12
  private static let numberOffset = 14
  private static let shortest = 22

  /// With header.
  let length: Int
  private let bytes: UnsafeMutableRawPointer

  /// - Parameter size: bytes of the frame, without FCS.
  init(size: Int) {
    precondition(size >= FrameTemplate.shortest)
    length = FrameTemplate.header + size
    unsafe bytes = .allocate(byteCount: length, alignment: 64)
    unsafe memset(bytes, 0, FrameTemplate.header)
    // From one local address to another, of an experimental type.
    let start: [UInt8] = [2, 0, 0, 0, 0, 2, 2, 0, 0, 0, 0, 1, 0x88, 0xb5]
    for i in 0..<size {
      unsafe bytes.storeBytes(
        of: i < start.count ? start[i] : UInt8(truncatingIfNeeded: 7 &* i),
        toByteOffset: FrameTemplate.header + i, as: UInt8.self)
    }
  }

  deinit { unsafe bytes.deallocate() }

  /// Writes it whole, with header.
  func write(to buffer: UnsafeMutableRawPointer) {
    unsafe buffer.copyMemory(from: bytes, byteCount: length)
  }

  /// Writes the number of a frame that is there already.
  @inline(__always)
  static func number(_ buffer: UnsafeMutableRawPointer, _ number: UInt64) {
    unsafe buffer.storeBytes(of: number, toByteOffset: header &+ numberOffset, as: UInt64.self)
  }

  /// The number of a received frame; nil if it is not one of these.  The header is the device's.
  @inline(__always)
  func number(of buffer: UnsafeMutableRawPointer, length: Int) -> UInt64? {
    let start = FrameTemplate.header
    let number = start &+ FrameTemplate.numberOffset
    guard length == self.length, unsafe memcmp(buffer + start, bytes + start, number &- start) == 0,
      unsafe memcmp(buffer + number + 8, bytes + number + 8, length &- number &- 8) == 0
    else { return nil }
    return unsafe buffer.loadUnaligned(fromByteOffset: number, as: UInt64.self)
  }
}
