// A frame is a place and a length; batches of frames cross between port and data path.
//
// A packet lies in one frame, or, where the port takes that, in several that follow one another.
// It never straddles two batches, so nobody has to remember half a packet.
public import AFXDP

/// A packet, an Ethernet frame without FCS, or a part of one, in the port's frame memory.
@unsafe @frozen
public struct Frame {
  /// First byte; for a transmit frame, where the bytes are to be written.
  public var data: UnsafeMutableRawPointer
  /// Bytes; for an empty transmit frame, the room at `data`.
  public var length: UInt32
  /// Token, and flags in the highest four bits.
  @usableFromInline var word: UInt32

  @usableFromInline static var continuesBit: UInt32 { @inlinable get { 1 << 31 } }
  @usableFromInline static var mergedBit: UInt32 { @inlinable get { 1 << 30 } }
  @usableFromInline static var verifiedBit: UInt32 { @inlinable get { 1 << 29 } }
  @usableFromInline static var metadataBit: UInt32 { @inlinable get { 1 << 28 } }
  @usableFromInline static var tokenMask: UInt32 { @inlinable get { 1 << 28 - 1 } }

  /// - Parameter token: less than 2^28.
  @inlinable @inline(__always)
  public init(data: UnsafeMutableRawPointer, length: UInt32, token: UInt32, continues: Bool = false)
  {
    unsafe self.data = data
    unsafe self.length = length
    unsafe word = continues ? token | Frame.continuesBit : token
  }

  /// The port's own name of the frame; handed back unchanged.
  @inlinable
  public var token: UInt32 {
    @inline(__always) get { unsafe word & Frame.tokenMask }
  }

  /// The next frame of the batch belongs to the same packet.
  @inlinable
  public var continues: Bool {
    @inline(__always) get { unsafe word >= Frame.continuesBit }
    @inline(__always) set {
      unsafe word = newValue ? word | Frame.continuesBit : word & ~Frame.continuesBit
    }
  }

  /// Received: the first frame of a packet that was merged from several, which follow.
  @inlinable
  public var isMerged: Bool {
    @inline(__always) get { unsafe word & Frame.mergedBit != 0 }
    @inline(__always) set {
      unsafe word = newValue ? word | Frame.mergedBit : word & ~Frame.mergedBit
    }
  }

  /// Received: the checksum of the packet was looked at and is right.
  @inlinable
  public var isVerified: Bool {
    @inline(__always) get { unsafe word & Frame.verifiedBit != 0 }
    @inline(__always) set {
      unsafe word = newValue ? word | Frame.verifiedBit : word & ~Frame.verifiedBit
    }
  }

  /// Of a frame to transmit: `TransmitMetadata` lies in front of `data`.
  @inlinable
  public var hasMetadata: Bool {
    @inline(__always) get { unsafe word & Frame.metadataBit != 0 }
  }

  /// Leaves the checksum over everything from byte `start` on, to be stored `offset` bytes behind
  /// that, to the device; only of a packet in one frame, and where `HostPortQueue.fillsChecksums`.
  @inlinable @inline(__always)
  public mutating func leaveChecksum(from start: UInt16, at offset: UInt16) {
    unsafe TransmitMetadata.requestChecksum(from: start, at: offset, of: data)
    unsafe word |= Frame.metadataBit
  }
}

/// A list of frames of fixed capacity.
@safe @frozen
public struct FrameBatch: ~Copyable, @unchecked Sendable {
  /// Frames that one turn of a worker handles at most.
  public static let standardCapacity = 64
  /// Frames that one packet of a guest may become, cut into segments: 64 KiB at 128 bytes each.
  public static let largestCapacity = 512

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

  /// Appends `count` frames, for which there must be room; `frame` says what each is.
  @inlinable @inline(__always)
  public func append(count: Int, _ frame: () -> Frame) {
    let first = self.count
    for i in 0..<count { unsafe frames[first &+ i] = frame() }
    unsafe countCell.pointee = first &+ count
  }

  @inlinable @inline(__always)
  public func removeAll() { unsafe countCell.pointee = 0 }

  /// Packets as they came, of whatever number of frames: of one that was merged, those that it was
  /// made of.  It looks at each frame: not for the data path.
  public var packetCount: Int {
    var packets = 0
    var isMerged = false
    for i in 0..<count {
      let (begins, ends) = unsafe (frames[i].isMerged, !frames[i].continues)
      if begins { isMerged = true }
      if isMerged || ends { packets += 1 }
      if ends { isMerged = false }
    }
    return packets
  }

  /// Drops all but the first `kept` frames from the list.
  @inlinable @inline(__always)
  public func removeLast(keeping kept: Int) { unsafe countCell.pointee = kept }

  /// Drops the first `count` frames from the list and moves the rest up.
  @inlinable
  public func removeFirst(_ count: Int) {
    let left = self.count - count
    unsafe frames.update(from: frames + count, count: left)
    unsafe countCell.pointee = left
  }
}
