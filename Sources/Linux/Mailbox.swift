// Messages from the control plane to one worker, and the answers.
//
// The worker looks at one relaxed flag per turn; the lock is taken only when there is mail.  The
// eventfd wakes a worker that sleeps in epoll.
import Glibc
import Synchronization

public final class Mailbox<Message: Sendable>: Sendable {
  private let flag = Atomic<Bool>(false)
  private let queue = Mutex<[Message]>([])
  /// Readable while there may be mail: for the worker's epoll set.
  public let wakeUp: EventDescriptor

  public init() throws(Errno) { wakeUp = try EventDescriptor() }

  public func post(_ message: Message) {
    queue.withLock { $0.append(message) }
    flag.store(true, ordering: .releasing)
    wakeUp.signal()
  }

  @inline(__always)
  public var hasMail: Bool { flag.load(ordering: .relaxed) }

  /// Hands every waiting message to `body`, oldest first.
  public func drain(_ body: (Message) -> Void) {
    wakeUp.drain()
    _ = flag.exchange(false, ordering: .acquiring)
    let batch = queue.withLock { queue in
      let batch = queue
      queue = []
      return batch
    }
    for message in batch { body(message) }
  }
}

/// The answer to one message; the sender waits for it.
public final class Reply<Value: Sendable>: Sendable {
  private let slot = Mutex<Value?>(nil)
  private let isThere = Atomic<Bool>(false)
  private let done: EventDescriptor

  public init() throws(Errno) { done = try EventDescriptor() }

  /// An answer that needs no descriptor of its own.  One who waits for one answer at a time may
  /// use the same event for all: what an earlier answer left in it only makes `wait` look once
  /// more.
  public init(signalling event: EventDescriptor) { done = event }

  public func fulfil(_ value: Value) {
    slot.withLock { $0 = value }
    isThere.store(true, ordering: .releasing)
    done.signal()
  }

  public var isFulfilled: Bool { isThere.load(ordering: .acquiring) }

  /// Blocks until `fulfil` was called.
  public func wait() -> Value {
    while true {
      if let value { return value }
      waitForEvent(milliseconds: -1)
    }
  }

  /// As above, but not for ever; nil if there is no answer by then (`MonotonicClock`).
  public func wait(until deadline: UInt64) -> Value? {
    while true {
      if let value { return value }
      let now = MonotonicClock.milliseconds
      guard now < deadline else { return nil }
      waitForEvent(milliseconds: CInt(clamping: deadline - now))
    }
  }

  private var value: Value? {
    isThere.load(ordering: .acquiring) ? slot.withLock { $0 } : nil
  }

  private func waitForEvent(milliseconds: CInt) {
    _ = waitFor(Int16(POLLIN), of: done.raw, milliseconds: milliseconds)
    done.drain()
  }
}
