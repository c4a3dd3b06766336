// A running control queue: takes commands off the ring, has them carried out and returns them with
// the answer (virtio 1.3, 5.1.6.5).
//
// Runs on the control thread: what commands change belongs to all workers, and they are rare.  It
// is served from its start on, enabled or not: enabling is about packets (vhost-user, "Ring
// states"), and a driver busy-waits for each answer.
//
// Hostile: the chains, their size and what is in them.  A chain without room for an answer goes
// back unanswered and not carried out.
import GuestMemory
import Linux
import Virtqueue

final class ControlQueue {
  /// The answers.
  private static let ok: UInt8 = 0
  private static let error: UInt8 = 1
  /// Commands that are carried out before other work of the thread gets its turn, and for how many
  /// milliseconds: one that changes the queue pairs in use stops and starts hundreds of rings.
  private static let turnLimit = 64
  private static let turnTime: UInt64 = 20

  private let queue: AnyVirtqueue
  private let features: VirtioFeatures
  private let kick: EventDescriptor?
  /// Behind a vIOMMU: who gets to hear what translations are lacking.
  private let misses: Mailbox<TranslationMiss>?
  private let memory: GuestMemory
  private let buffers: CommandBuffers
  private var isFaultReported = false

  init(_ config: VirtqueueConfig) throws(QueueFault) {
    queue = try AnyVirtqueue(activating: config)
    features = config.features
    kick = config.kick
    memory = config.memory
    misses = config.translation?.misses
    buffers = CommandBuffers(capacity: max(1024, 2 * config.size))
    queue.signalCall()
  }

  var index: Int { queue.index }
  var base: VringBase { queue.base }
  /// To be watched; nil: the ring must be looked at from time to time.
  var kickDescriptor: Int32? { kick?.raw }

  /// A fault of the ring, once.
  func takeFault() -> QueueFault? {
    guard let fault = queue.fault, !isFaultReported else { return nil }
    isFaultReported = true
    // What is in the place of memory that was taken away makes no ring; that is told by itself.
    if memory.isLost { return nil }
    queue.signalError()
    return fault
  }

  func translate(by table: Translations) {
    if misses != nil { queue.translate(by: table) }
  }

  func refuse(_ miss: TranslationMiss) { queue.refuse(miss) }

  /// Carries out what waits.
  /// - Parameters:
  ///   - perform: carries a command out, and says whether it could.
  ///   - refused: hears of a command that is none.
  /// - Returns: whether more may wait, for which no kick comes.
  func serve(
    perform: (ControlCommand) -> Bool, refused: (ControlCommand.Refusal, [UInt8]) -> Void
  ) -> Bool {
    let begin = MonotonicClock.milliseconds
    for served in 0..<ControlQueue.turnLimit {
      // One at least, however long this thread was kept from its CPU.
      if served > 0, MonotonicClock.milliseconds &- begin >= ControlQueue.turnTime { return true }
      if queue.availableChains(1) == 0 {
        if !queue.enableKicks() { return false }
        continue
      }
      var position = queue.position
      switch queue.collect(at: &position, into: buffers) {
      case .none:
        // A command whose translation comes later, if it is not a fault.
        if let misses, let miss = queue.takeMiss() { misses.post(miss) }
        return false
      case .malformed(let chain, _): finish(chain, at: position, length: 0)
      case .chain(let chain):
        guard buffers.answerSize > 0 else {
          finish(chain, at: position, length: 0)
          continue
        }
        buffers.answer(answer(perform, refused))
        queue.didAnswer(buffers)
        finish(chain, at: position, length: 1)
      }
    }
    return true
  }

  private func answer(
    _ perform: (ControlCommand) -> Bool, _ refused: (ControlCommand.Refusal, [UInt8]) -> Void
  ) -> UInt8 {
    let bytes = buffers.command(limit: ControlCommand.maximumSize)
    do throws(ControlCommand.Refusal) {
      guard buffers.commandSize == bytes.count else { throw .wrongSize }
      let command = try ControlCommand(bytes, features: features)
      return perform(command) ? ControlQueue.ok : ControlQueue.error
    } catch {
      refused(error, bytes)
      return ControlQueue.error
    }
  }

  /// A driver waits for each answer.
  private func finish(_ chain: DescriptorChain, at position: QueuePosition, length: UInt32) {
    queue.take(to: position)
    queue.push(chain, length: length)
    queue.publish()
    queue.callIfNeeded()
  }
}
