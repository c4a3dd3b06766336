// A frame is a place and a length; batches of frames cross between port and data path.

/// One Ethernet frame (without FCS) in the port's frame memory.
@unsafe @frozen
public struct Frame {
  /// First byte of the frame; for a transmit frame, where the frame is to be written.
  public var data: UnsafeMutableRawPointer
  /// Bytes of the frame; for an empty transmit frame, the room at `data`.
  public var length: UInt32
  /// The port's own name of the frame; handed back unchanged.
  public var token: UInt32

  @inlinable @inline(__always)
  public init(data: UnsafeMutableRawPointer, length: UInt32, token: UInt32) {
    unsafe self.data = data
    unsafe self.length = length
    unsafe self.token = token
  }
}

/// A list of frames of fixed capacity.
@safe @frozen
public struct FrameBatch: ~Copyable, @unchecked Sendable {
  /// Frames that one turn of a worker handles at most.
  public static let standardCapacity = 64

  @usableFromInline let frames: UnsafeMutablePointer<Frame>
  @usableFromInline let countCell: UnsafeMutablePointer<Int>
  public let capacity: Int

  public init(capacity: Int = FrameBatch.standardCapacity) {
    precondition(capacity > 0)
    self.capacity = capacity
    unsafe frames = .allocate(capacity: capacity)
    unsafe countCell = .allocate(capacity: 1)
    unsafe countCell.initialize(to: 0)
  }

  deinit {
    unsafe frames.deallocate()
    unsafe countCell.deallocate()
  }

  @inlinable
  public var count: Int {
    @inline(__always) get { unsafe countCell.pointee }
  }

  @inlinable
  public var isFull: Bool {
    @inline(__always) get { unsafe countCell.pointee >= capacity }
  }

  /// `index` must be below `count`: it is always ours, never a guest's.
  @inlinable
  public subscript(index: Int) -> Frame {
    @inline(__always) get { unsafe frames[index] }
    @inline(__always) nonmutating set { unsafe frames[index] = newValue }
  }

  /// Appends a frame; the batch must not be full.
  @inlinable @inline(__always)
  public func append(_ frame: Frame) {
    unsafe frames[countCell.pointee] = frame
    unsafe countCell.pointee &+= 1
  }

  @inlinable @inline(__always)
  public func removeAll() { unsafe countCell.pointee = 0 }

  /// Drops the first `count` frames from the list and moves the rest up.
  @inlinable
  public func removeFirst(_ count: Int) {
    let left = self.count - count
    unsafe frames.update(from: frames + count, count: left)
    unsafe countCell.pointee = left
  }
}
