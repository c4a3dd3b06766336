// A running virtqueue of the format that was negotiated.
//
// The data path opens it once for a batch, and calls a function that is specialised for the format
// in it.  The verbs here are for everything that is rarer.
public import GuestMemory

public enum AnyVirtqueue: ~Copyable {
  case split(SplitVirtqueue)
  case packed(PackedVirtqueue)
}

extension AnyVirtqueue: Virtqueue {
  public init(activating config: VirtqueueConfig) throws(QueueFault) {
    self =
      config.features.contains(.ringPacked)
      ? .packed(try PackedVirtqueue(activating: config))
      : .split(try SplitVirtqueue(activating: config))
  }

  public var index: Int {
    switch self {
    case .split(let queue): queue.index
    case .packed(let queue): queue.index
    }
  }
  public var size: Int {
    switch self {
    case .split(let queue): queue.size
    case .packed(let queue): queue.size
    }
  }
  public var base: VringBase {
    switch self {
    case .split(let queue): queue.base
    case .packed(let queue): queue.base
    }
  }
  public var fault: QueueFault? {
    switch self {
    case .split(let queue): queue.fault
    case .packed(let queue): queue.fault
    }
  }
  public var position: QueuePosition {
    switch self {
    case .split(let queue): queue.position
    case .packed(let queue): queue.position
    }
  }

  public func availableChains(_ want: Int) -> Int {
    switch self {
    case .split(let queue): queue.availableChains(want)
    case .packed(let queue): queue.availableChains(want)
    }
  }
  public func collect(
    at position: inout QueuePosition, into buffers: borrowing DeviceReadableBuffers
  ) -> ChainOutcome {
    switch self {
    case .split(let queue): queue.collect(at: &position, into: buffers)
    case .packed(let queue): queue.collect(at: &position, into: buffers)
    }
  }
  public func append(
    at position: inout QueuePosition, to buffers: borrowing DeviceWritableBuffers
  ) -> ChainOutcome {
    switch self {
    case .split(let queue): queue.append(at: &position, to: buffers)
    case .packed(let queue): queue.append(at: &position, to: buffers)
    }
  }
  public func single(at position: QueuePosition, writable: Bool) -> SingleBuffer? {
    switch self {
    case .split(let queue): queue.single(at: position, writable: writable)
    case .packed(let queue): queue.single(at: position, writable: writable)
    }
  }
  public func skip(at position: inout QueuePosition) -> ChainOutcome {
    switch self {
    case .split(let queue): queue.skip(at: &position)
    case .packed(let queue): queue.skip(at: &position)
    }
  }
  public func take(to position: QueuePosition) {
    switch self {
    case .split(let queue): queue.take(to: position)
    case .packed(let queue): queue.take(to: position)
    }
  }
  public func push(_ chain: DescriptorChain, length: UInt32) {
    switch self {
    case .split(let queue): queue.push(chain, length: length)
    case .packed(let queue): queue.push(chain, length: length)
    }
  }
  public func didWrite(_ buffers: borrowing DeviceWritableBuffers, length: Int) {
    switch self {
    case .split(let queue): queue.didWrite(buffers, length: length)
    case .packed(let queue): queue.didWrite(buffers, length: length)
    }
  }
  public func didAnswer(_ command: borrowing CommandBuffers) {
    switch self {
    case .split(let queue): queue.didAnswer(command)
    case .packed(let queue): queue.didAnswer(command)
    }
  }
  public func publish() {
    switch self {
    case .split(let queue): queue.publish()
    case .packed(let queue): queue.publish()
    }
  }

  public func needsCall() -> Bool {
    switch self {
    case .split(let queue): queue.needsCall()
    case .packed(let queue): queue.needsCall()
    }
  }
  public func signalCall() {
    switch self {
    case .split(let queue): queue.signalCall()
    case .packed(let queue): queue.signalCall()
    }
  }
  public func signalError() {
    switch self {
    case .split(let queue): queue.signalError()
    case .packed(let queue): queue.signalError()
    }
  }
  public func disableKicks() {
    switch self {
    case .split(let queue): queue.disableKicks()
    case .packed(let queue): queue.disableKicks()
    }
  }
  public func enableKicks(beyond position: QueuePosition) -> Bool {
    switch self {
    case .split(let queue): queue.enableKicks(beyond: position)
    case .packed(let queue): queue.enableKicks(beyond: position)
    }
  }

  public func takeMiss() -> TranslationMiss? {
    switch self {
    case .split(let queue): queue.takeMiss()
    case .packed(let queue): queue.takeMiss()
    }
  }
  public func translate(by table: Translations) {
    switch self {
    case .split(let queue): queue.translate(by: table)
    case .packed(let queue): queue.translate(by: table)
    }
  }
  public func refuse(_ miss: TranslationMiss) {
    switch self {
    case .split(let queue): queue.refuse(miss)
    case .packed(let queue): queue.refuse(miss)
    }
  }
}
