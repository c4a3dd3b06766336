// The control plane's end of a worker: its mailbox and its thread.
import Linux

final class WorkerThread {
  let counters = WorkerCounters()
  private let mailbox: Mailbox<WorkerMessage>
  private var thread: PinnedThread?
  private var asked: UInt64 = 0

  init(
    index: Int, cpu: Int?, polling: Polling, log: @escaping @Sendable (String) -> Void
  ) throws(Errno) {
    let mailbox = try Mailbox<WorkerMessage>()
    self.mailbox = mailbox
    let counters = counters
    let started = try Reply<Errno?>()
    let thread = try PinnedThread(name: "worker-\(index)", cpu: cpu) {
      do throws(Errno) {
        let worker = try Worker(mailbox: mailbox, polling: polling, counters: counters, log: log)
        started.fulfil(nil)
        worker.run()
      } catch { started.fulfil(error) }
    }
    // A worker that never ran would never answer.
    if let error = started.wait() {
      thread.join()
      throw error
    }
    self.thread = consume thread
  }

  func post(_ message: WorkerMessage) { mailbox.post(message) }

  /// Whether it has answered the last time that this was asked, if it was; asks again.
  func isAlive() -> Bool {
    guard counters.sign.current == asked else { return false }
    asked &+= 1
    mailbox.post(.showSign(asked))
    return true
  }

  /// Ends the thread and waits for it.
  func end() {
    mailbox.post(.end)
    if let thread = thread.take() { thread.join() }
  }
}
