// The verbs that a driver of either ring format has, so that a test runs over both by argument.
public import GuestMemory
public import Linux
public import Virtqueue

public protocol RingDriver: AnyObject {
  var ram: GuestRAM { get }
  var size: Int { get }
  var features: VirtioFeatures { get }

  /// What a front-end tells a back-end of this ring, without descriptors.
  func config(_ index: Int, _ memory: GuestMemory) -> VirtqueueConfig

  /// Entries of the ring of descriptors that are not in use.
  var freeDescriptors: Int { get }
  /// Chains that the device holds.
  var outstanding: Int { get }
  /// Puts a chain into the ring; `publish` makes it visible.  `buffers` is not empty.
  /// - Parameter direct: how many leading buffers get a descriptor of the ring; the others go into
  ///   an indirect table.  Nil: all, hence no indirect table.
  /// - Returns: the head or buffer id, or nil if there are too few free descriptors.
  @discardableResult
  func add(_ buffers: [DriverQueue.Buffer], direct: Int?) -> UInt16?
  /// Makes all added chains visible.
  /// - Returns: whether the device asked to be kicked for them.
  @discardableResult
  func publish() -> Bool

  /// Takes back one chain, if the device has returned one.
  func nextUsed() throws(DriverQueueError) -> DriverQueue.UsedElement?
  /// Asks for an interrupt at the next used chain and looks again: true if there is one already.
  func enableCalls() -> Bool
  /// Asks for no interrupts.
  func disableCalls()
}

extension RingDriver {
  /// What a front-end tells a back-end of this ring.
  public func config(
    index: Int = 0, memory: GuestMemory, kick: EventDescriptor? = nil,
    call: EventDescriptor? = nil, error: EventDescriptor? = nil, isEnabled: Bool = true
  ) -> VirtqueueConfig {
    var config = config(index, memory)
    config.kick = kick
    config.call = call
    config.error = error
    config.isEnabled = isEnabled
    return config
  }

  @discardableResult
  public func add(_ buffers: [DriverQueue.Buffer]) -> UInt16? { add(buffers, direct: nil) }

  /// Takes back all chains that the device has returned, oldest first.
  public func allUsed() throws(DriverQueueError) -> [DriverQueue.UsedElement] {
    var all: [DriverQueue.UsedElement] = []
    while let element = try nextUsed() { all.append(element) }
    return all
  }
}

/// A driver of the format that is in `features`.
/// - Parameters:
///   - start: how many descriptors' worth of history the ring has: 65000 is soon at a split ring's
///     wrap.  Of a packed ring it becomes a descriptor and a wrap counter.
///   - shuffled: heads or buffer ids in a random order of this seed, else ascending.
public func ringDriver(
  in ram: GuestRAM, size: Int, features: VirtioFeatures, start: UInt16 = 0,
  shuffled: UInt64? = nil
) -> any RingDriver {
  guard features.contains(.ringPacked) else {
    return DriverQueue(in: ram, size: size, features: features, start: start, shuffled: shuffled)
  }
  let laps = Int(start) / size
  return PackedDriverQueue(
    in: ram, size: size, features: features,
    start: QueuePosition(UInt16(Int(start) % size) | (laps % 2 == 0 ? 0x8000 : 0)),
    shuffled: shuffled)
}

extension ChainLayout {
  /// Whether a ring with these features has such chains: in a packed ring a chain is all direct or
  /// all in a table (virtio 1.3, 2.8.19).
  public func exists(with features: VirtioFeatures) -> Bool {
    let inRing = min(direct ?? lengths.count, lengths.count)
    return !features.contains(.ringPacked) || inRing == 0 || inRing == lengths.count
  }
}
