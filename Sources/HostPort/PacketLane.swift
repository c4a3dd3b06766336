// The other way out of an AF_XDP queue: a packet socket on the same interface.
//
// While packets of this lane are on their way, frames of the queue follow them by the same socket, in
// line with those that it did not take at once.
import AFXDP
import Linux
import Packet
import SharedRing

struct PacketLane: ~Copyable {
  /// Frames that wait for the socket; in packets.
  let waiting: FrameBatch
  private let packet: GatheredPacket
  private let fd: CInt
  private let headerLength: Int
  /// A packet that was dropped has not left in parts: nobody cut it on the way to the device.
  let dropsWhole: Bool
  let state = HotState(State())
  /// Keeps `fd` open.
  private let socket: PacketSocket?

  struct State {
    /// Packets may be on their way in this lane: none is in the other one.
    var isInUse = false
    /// Since when everything is dropped; 0: something was taken.
    var droppedSince: UInt64 = 0
    /// How long what queueing discipline or device drop is offered again; milliseconds.
    var patience: UInt64 = 100
    /// What waits goes by the other lane, since the socket does not take it and has nothing on its way.
    var isLeaving = false
    /// Where the last packet was sent.
    var cpu: CInt = -1
  }

  /// - Parameters:
  ///   - socket: nil: there is no lane, and it is never in use.
  ///   - deviceCuts: the kernel does not.
  ///   - frames: that may wait.
  init(_ socket: PacketSocket?, deviceCuts: Bool, frames: Int, framesPerPacket: Int) {
    fd = socket?.raw ?? -1
    headerLength = socket?.headerLength ?? 0
    waiting = FrameBatch(capacity: socket == nil ? 1 : frames)
    dropsWhole = deviceCuts
    packet = GatheredPacket(capacity: framesPerPacket)
    self.socket = socket
  }

  var exists: Bool { fd >= 0 }

  var isInUse: Bool {
    @inline(__always) get { state.value.isInUse }
    @inline(__always) nonmutating set { state.value.isInUse = newValue }
  }

  /// Frames may go by the other lane again: everything that was sent in this one has left.
  func isLeft() -> Bool {
    if waiting.count > 0 || isBusy { return false }
    leave()
    return true
  }

  /// Frames go by the other lane from now on.
  func leave() {
    isInUse = false
    state.value.isLeaving = false
  }

  /// Something is on its way in this lane.
  var isBusy: Bool { PacketSocket.isBusy(fd) }

  /// Whether what is sent now stays behind what was sent before.  The kernel chooses a hardware queue
  /// by the CPU that sends (XPS), packet by packet, and the scheduler may have moved this thread.  (It
  /// may do so once more before the call; a worker that is bound, by `--cpus`, stays where it is.)
  func staysInLine() -> Bool {
    let cpu = PinnedThread.currentCPU
    if cpu == state.value.cpu { return true }
    if isInUse && isBusy { return false }
    state.value.cpu = cpu
    return true
  }

  func send(_ packet: borrowing GatheredPacket) -> PacketSendOutcome {
    let outcome = PacketSocket.send(packet, by: fd, headerLength: headerLength)
    if outcome == .sent { state.value.droppedSince = 0 }
    return outcome
  }

  /// Sends the packet of the waiting frames from `first` on; `end` becomes the end of it.
  func send(from first: Int, end: inout Int) -> PacketSendOutcome {
    let words = unsafe header(of: waiting[first]).words
    packet.removeAll(header: words.low, words.high)
    end = first
    while end < waiting.count {
      let frame = unsafe waiting[end]
      guard unsafe packet.append(frame.data, count: Int(frame.length)) else { break }
      end &+= 1
      if unsafe !frame.continues { break }
    }
    return send(packet)
  }

  /// What a frame leaves to the device, the kernel is asked for.
  private func header(of frame: Frame) -> VirtioNetHeader {
    var header = VirtioNetHeader(low: 0, high: 0)
    if unsafe frame.hasMetadata {
      header.flags = VirtioNetHeader.needsChecksum
      unsafe (header.checksumStart, header.checksumOffset) =
        TransmitMetadata.requestedChecksum(of: frame.data)
    }
    return header
  }

  /// Whether a packet that was dropped is to be offered again.
  /// - Parameter isCut: it is not a frame, and would have been cut.
  func isPatient(isCut: Bool) -> Bool {
    if isCut && !dropsWhole { return false }
    let now = MonotonicClock.milliseconds
    if state.value.droppedSince == 0 { state.value.droppedSince = now }
    return now &- state.value.droppedSince < state.value.patience
  }
}
