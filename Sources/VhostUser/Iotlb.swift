// What a session knows of the guest's IOMMU: translations, and what it has asked the front-end for.
//
// A miss is asked for once, however many queues wait for it.  With REPLY_ACK the front-end replies
// when it has sent the update, or has found that there is none ("For miss events, completed
// operation means ..."); replies come in the order of the questions.  A reply and the update it
// speaks of come over different sockets, so a reply counts when all that was sent before it has
// been read.
import GuestMemory
import Linux

struct Iotlb {
  var table = TranslationTable() { didSet { snapshot = nil } }
  /// What the data path sees of the table, until it changes.
  private var snapshot: Translations?
  /// Posted to by workers.
  let misses: Mailbox<TranslationMiss>
  /// The front-end speaks of translations, whether or not it gave a channel.
  var isInUse = false

  struct Question {
    let miss: TranslationMiss
    /// Chains that came later: the driver may have made the mapping after the front-end had looked.
    var later: [TranslationMiss] = []
    /// A translation came since.
    var isAnswered = false
  }
  /// Sent, oldest first.
  private var asked: [Question] = []
  /// The channel had no room for them.
  private var unsent: [Question] = []
  /// Replied to, but perhaps not yet answered.
  private var replied: [Question] = []

  /// Most questions on their way: each ring waits for one chain or for itself.
  static let mostQuestions = 4096
  /// Most chains that join in a question: no device has more rings.
  static let mostLater = 1024
  /// So many questions are without a reply that the front-end, whatever it negotiated, sends none;
  /// then an update is all that comes.
  private var hasNoReplies = false

  init() throws(Errno) { misses = try Mailbox() }

  /// One for all rings: a device has hundreds, which a new memory table starts all at once.
  /// - Parameter memory: what the table points into.
  mutating func snapshot(of memory: GuestMemory) -> Translations {
    if let snapshot { return snapshot }
    let taken = table.snapshot(memory: memory)
    snapshot = taken
    return taken
  }

  private func isCovered(_ miss: TranslationMiss) -> Bool {
    table.firstMiss(miss.address, size: 1, access: miss.access) == nil
  }

  /// Whether this has to be asked now; if it is asked already, a chain joins in.
  /// - Parameter later: more chains that wait for the same.
  mutating func shouldAsk(_ miss: TranslationMiss, _ later: [TranslationMiss] = []) -> Bool {
    if isCovered(miss) { return false }
    func join(_ list: inout [Question]) -> Bool {
      guard let i = list.firstIndex(where: { $0.miss.isSame(as: miss) && !$0.isAnswered }) else {
        return false
      }
      if miss.chain != 0 { list[i].later.append(miss) }
      list[i].later += later
      // Rings that were stopped and started again since have left theirs behind.
      list[i].later.removeFirst(max(0, list[i].later.count - Iotlb.mostLater))
      return true
    }
    if join(&asked) || join(&replied) || join(&unsent) { return false }
    if asked.count >= Iotlb.mostQuestions {
      hasNoReplies = true
      asked.removeAll(where: \.isAnswered)
    }
    return asked.count + unsent.count < Iotlb.mostQuestions
  }

  mutating func hasSent(_ question: Question) { asked.append(question) }
  mutating func couldNotSend(_ question: Question) { unsent.append(question) }

  mutating func takeUnsent() -> [Question] {
    defer { unsent = [] }
    return unsent
  }

  /// The table has changed.
  /// - Parameter expectsReplies: else an answer is all that comes.
  mutating func noteAnswers(expectsReplies: Bool) {
    for i in asked.indices where isCovered(asked[i].miss) { asked[i].isAnswered = true }
    for i in replied.indices where isCovered(replied[i].miss) { replied[i].isAnswered = true }
    if !expectsReplies || hasNoReplies { asked.removeAll(where: \.isAnswered) }
  }

  /// A reply came.  Returns the question that the front-end has no translation for.
  mutating func takeReply(_ code: UInt64) -> Question? {
    guard !asked.isEmpty, !hasNoReplies else { return nil }
    let question = asked.removeFirst()
    if question.isAnswered { return nil }
    if code != 0 { return question }
    replied.append(question)
    return nil
  }

  /// Everything that the front-end has sent is read.  Returns what it has no translation for.
  mutating func settle() -> [Question] {
    defer { replied = [] }
    return replied.filter { !$0.isAnswered }
  }

  /// The channel is another one: nobody replies to what was asked over the former.
  mutating func forgetQuestions() {
    asked = []
    replied = []
    unsent = []
    hasNoReplies = false
  }
}
