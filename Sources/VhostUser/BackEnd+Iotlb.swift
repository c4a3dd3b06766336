// IOTLB_MSG and the misses of the data path (vhost-user specification, "IOMMU support").
//
// With ACCESS_PLATFORM, descriptors and ring addresses hold I/O virtual addresses, which the
// front-end translates.  A change of translations is acknowledged when every worker uses the new
// ones; a ring whose own pages moved is stopped before that, and starts again when it is mapped
// again.  Nothing here waits for the front-end.
//
// A front-end that acknowledges ACCESS_PLATFORM, has given no channel and never speaks of
// translations has no IOMMU to ask: its addresses are what they are without the feature.
import Glibc
import GuestMemory
import Linux
import Virtqueue

extension BackEnd {
  /// Addresses of rings and buffers are I/O virtual ones.
  var isTranslating: Bool {
    features.contains(.accessPlatform) && (channel != nil || iotlb?.isInUse == true)
  }

  private var expectsReplies: Bool { protocolFeatures.contains(.replyAck) }

  func changeTranslations(_ message: IotlbMessage) throws(VhostUserError) -> Reply {
    guard iotlb != nil else {
      throw .featureMissing(request: "IOTLB_MSG", feature: "ACCESS_PLATFORM")
    }
    let address = IOVirtualAddress(message.iova)
    switch message.type {
    case IotlbMessage.update:
      do throws(TranslationError) {
        try iotlb!.table.update(
          address, size: message.size, to: message.frontEnd, permission: message.permission,
          memory: memory)
      } catch { throw .translation(error) }
    case IotlbMessage.invalidate: iotlb!.table.invalidate(address, size: message.size)
    default:
      throw .wrongValue(
        request: "IOTLB_MSG", value: UInt64(message.type),
        allowed: "type 2 (update) or 3 (invalidate)")
    }
    if !isTranslating {
      // The first word of an IOMMU: rings were addressed without it.
      rings.indices.forEach(stop)
      iotlb!.isInUse = true
    }
    iotlb!.noteAnswers(expectsReplies: expectsReplies)
    for ring in rings.indices where hasMoved(ring, address, size: message.size) { stop(ring) }
    device.translate(by: iotlb!.snapshot(of: memory))
    rings.indices.forEach(startIfComplete)
    return .number(0)
  }

  /// Whether a change of these addresses moved the pages of a ring that runs.
  private func hasMoved(_ ring: Int, _ address: IOVirtualAddress, size: UInt64) -> Bool {
    guard let iotlb, rings[ring].isStarted, let mapping = rings[ring].mapping else { return false }
    return mapping.overlaps(address, size: size) && !mapping.isCurrent(in: iotlb.table)
  }

  /// What a ring needs to run; nil if the front-end has to be asked first, which has been done.
  func translation(for config: VirtqueueConfig) -> QueueTranslation? {
    guard let iotlb else { return nil }
    do throws(RingMapping.Failure) {
      let mapping = try RingMapping(config.ringParts, in: iotlb.table, memory: memory)
      if isPostcopyListening, mapping.isMappedAgain {
        warn(
          "ring \(config.index) cannot run while memory arrives by postcopy: its pages are scattered, "
            + "and a second mapping of them cannot be registered; use 256 ring entries")
        config.error?.signal()
        return nil
      }
      return QueueTranslation(
        table: self.iotlb!.snapshot(of: memory), ring: mapping, misses: iotlb.misses)
    } catch {
      switch error {
      case .missing(let misses): misses.forEach(ask)
      case .scattered(let part):
        warn(
          "ring \(config.index) cannot be started: the \(part.size) bytes at I/O virtual address "
            + "\(part.address) are scattered over huge pages, which cannot be mapped in order; "
            + "use 256 ring entries or guest memory without huge pages")
        config.error?.signal()
      }
      return nil
    }
  }

  // MARK: Asking

  private func ask(_ miss: TranslationMiss) { ask(miss, for: []) }

  /// - Parameter later: more chains that wait for the same.
  private func ask(_ miss: TranslationMiss, for later: [TranslationMiss]) {
    guard isTranslating, channel != nil, iotlb?.shouldAsk(miss, later) == true else { return }
    send(Iotlb.Question(miss: miss, later: later))
  }

  private func send(_ question: Iotlb.Question) {
    let miss = question.miss
    let message = IotlbMessage(
      iova: miss.address.value, size: 0, frontEnd: FrontEndAddress(0),
      permission: miss.access.rawValue, type: IotlbMessage.miss)
    if channel!.send(.iotlb(message), wantsReply: expectsReplies) {
      iotlb!.hasSent(question)
    } else {
      iotlb!.couldNotSend(question)
    }
  }

  /// Takes what workers wait for and what the front-end replied.
  func serveTranslations() {
    guard let misses = iotlb?.misses else { return }
    misses.drain(ask)
    guard channel != nil else { return }
    // The rest is reported again: a front-end must not keep the control thread for itself.
    for _ in 0..<64 {
      switch channel!.receive() {
      case .reply(to: let request, _) where request != BackEndRequest.iotlbRequest:
        inband?.takeReply()
        continue
      case .reply(_, let code):
        if let question = iotlb!.takeReply(code) { refuse(question) }
        continue
      case .nothing: break
      case .closed:
        if let raw = channel?.raw { events?.remove(raw) }
        channel!.letGo()
      }
      break
    }
    for question in iotlb!.takeUnsent() { send(question) }
  }

  /// All that the front-end has sent is read.
  func settleTranslations() {
    guard let refused = iotlb?.settle() else { return }
    refused.forEach(refuse)
  }

  private func refuse(_ question: Iotlb.Question) {
    warn(
      "the front-end has no translation to \(question.miss.access) I/O virtual address "
        + "\(question.miss.address); the packet or ring there is of no use")
    device.refuse(question.miss)
    if let next = question.later.first { ask(next, for: Array(question.later.dropFirst())) }
  }

  // MARK: The session's other business

  /// One that nobody looks at is not taken: what the front-end puts into it would lie there, such as
  /// its own end of the connection.
  func takeChannel(_ channel: consuming BackEndChannel) throws(VhostUserError) {
    do throws(Errno) {
      guard events != nil, let raw = channel.raw else { throw Errno(EMFILE) }
      try events!.add(raw, .readable, tag: 0)
    } catch { throw .channelNotWatched(error) }
    if let former = self.channel?.raw { events?.remove(former) }
    iotlb?.forgetQuestions()
    inband?.changeChannel()
    self.channel = consume channel
  }

  /// The memory table is another one; the rings stand still.
  func moveTranslations() { iotlb?.table.move(to: memory) }

  /// The front-end tells no changes to a device that it resets or has stopped; the rings stand
  /// still.
  func forgetTranslations() { iotlb?.table.removeAll() }
}
