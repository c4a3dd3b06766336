// Live migration, the new host's side, when the guest runs before its memory has come (vhost-user
// specification, "Migration" and POSTCOPY_*).
//
//   ADVISE      the front-end gets the descriptor that it will read faults from
//   LISTEN      from now on memory is registered before anybody touches it
//   SET_MEM_TABLE or ADD_MEM_REG    answered with our own addresses, which faults name; the
//               front-end then acknowledges the answer, by the same request with eight bytes of
//               zeros, when it is able to serve faults: no ring runs before
//   END         all of it has come
//
// Waiting for the acknowledgement is a state of the session and not a wait: other requests are
// carried out meanwhile.
//
// Trusted: the front-end.  It may register any memory of this process with the descriptor that it gets,
// not guest memory alone: put pages there of which nothing has been touched yet, and stop who touches
// them.  The kernel has no way to narrow it.  So a device offers this only if it was told to.
import GuestMemory
import Linux

struct PostcopyState {
  let memory: Postcopy
  var isListening = false
  /// Regions were answered with our addresses; the rings wait for the front-end.
  var awaitsAcknowledgement = false
}

extension BackEnd {
  /// POSTCOPY_ADVISE.
  func advisePostcopy() throws(VhostUserError) -> Reply {
    // The socket itself: an epoll set with it does not tell that it hangs up.
    guard let socket = socketDescriptor else { return .empty }
    postcopy?.memory.finish()
    postcopy = nil
    do throws(Errno) {
      let memory = try Postcopy(frontEnd: socket, of: alarm, patience: pagePatience)
      // All of a migration's requests may come in one turn.
      memory.controlThread(isBusy: isThreadBusy)
      postcopy = PostcopyState(memory: memory)
      return .bytes([], lending: memory.descriptor)
    } catch { throw .postcopy(request: "POSTCOPY_ADVISE", error) }
  }

  /// POSTCOPY_LISTEN.  Memory may be there already; the rings are stopped.
  func listenPostcopy() throws(VhostUserError) -> Reply {
    guard let postcopy else {
      throw .featureMissing(request: "POSTCOPY_LISTEN", feature: "POSTCOPY_ADVISE")
    }
    if postcopy.isListening { return .acknowledge }
    try registerForPostcopy(memory, request: "POSTCOPY_LISTEN")
    self.postcopy?.isListening = true
    return .acknowledge
  }

  /// POSTCOPY_END.
  func endPostcopy() -> Reply {
    postcopy?.memory.finish()
    postcopy = nil
    return .number(0)
  }

  /// The session ends: whoever waits for a page waits no longer.
  func abandonPostcopy() {
    postcopy?.memory.abandon()
    postcopy = nil
  }

  /// The thread that calls has something to do from now on, or waits for events again: a page that
  /// does not come must not keep it from its work for ever.
  public func controlThread(isBusy: Bool) {
    isThreadBusy = isBusy
    postcopy?.memory.controlThread(isBusy: isBusy)
  }

  /// A worker does not answer: if it waits for a page, it waits no longer, and the session ends.
  public func workersDoNotAnswer() {
    guard let postcopy else { return }
    postcopy.memory.abandon()
    alarm.raise(.pagesMissing)
  }

  var isPostcopyListening: Bool { postcopy?.isListening ?? false }

  /// Before anybody may touch regions that `memory` has and the session's table has not.
  func registerForPostcopy(
    _ memory: GuestMemory, unless known: GuestMemory? = nil, request: String
  ) throws(VhostUserError) {
    guard let postcopy else { return }
    do throws(Errno) {
      for region in memory.regions
      where !(known?.regions.contains { $0 === region } ?? false) {
        try postcopy.memory.register(region)
      }
    } catch {
      // What is refused has changed nothing.
      postcopy.memory.keep(self.memory)
      throw .postcopy(request: request, error)
    }
  }

  /// The front-end is able to serve faults of the regions that it was answered.
  func acknowledgePostcopy(_ value: UInt64, request: String) throws(VhostUserError) -> Reply {
    guard postcopy?.awaitsAcknowledgement == true, value == 0 else {
      throw .wrongValue(
        request: request, value: value,
        allowed: "a region, or 0 where an answer with our addresses is to be acknowledged")
    }
    postcopy?.awaitsAcknowledgement = false
    return .acknowledge
  }

  /// The answer of a memory request while memory is arriving: the regions, at our addresses.
  func postcopyReply(padding: [UInt8], _ regions: [MemoryRegion]) -> Reply {
    postcopy?.awaitsAcknowledgement = true
    postcopy?.memory.keep(memory)
    var payload = padding
    for region in regions {
      payload.append(number: region.description.guest.value)
      payload.append(number: region.description.size)
      payload.append(number: region.addressHere)
      payload.append(number: region.description.offset)
    }
    return .bytes(payload)
  }
}
