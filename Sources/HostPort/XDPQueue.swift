// One NIC queue, through one AF_XDP socket.
//
// A frame is always in exactly one place: a free list, a ring, or handed out.  Receive: free →
// fill ring → RX ring → handed out → free.  Transmit: free → handed out → TX ring → completion
// ring → free.
//
// A down link keeps what is in the TX ring, and the ring cannot be emptied by us.  So that a guest
// does not come to a stop with its link, frames are then dropped and counted as a real NIC does,
// and each batch asks the kernel again; the budget is larger than the ring has places by the largest
// batch, so that there are frames to do so with; a packet of hundreds of segments may still wait for
// the link, if the driver keeps frames too.
import AFXDP
import Linux
import SharedRing
import Synchronization

final class XDPQueue: HostPortQueue {
  /// System calls that one `flush` makes at most: the device may refuse each frame by itself.
  private static let wakeUpsPerFlush = 64
  /// A frame is at least an Ethernet header.
  private static let shortestFrame: UInt32 = 14

  let index: Int
  let framesPerPacket: Int
  let mode: String
  let descriptor: CInt?
  let isAlwaysReadable = false
  let socket: XDPSocket
  /// Where packets leave uncut.
  let lane: PacketLane
  let bulkLane: BulkLane?
  let gate: LaneGate
  private let fd: CInt
  let fillsChecksums: Bool
  private let longestFrame: UInt32
  /// Bytes of its chunk before a transmitted frame.
  private let transmitOffset: Int
  /// The kernel does the device's work for this queue only when it is called.
  private let drivesDevice: Bool
  /// Keeps the program attached.
  private let program: XDPProgram
  let link = HotState(LinkState())

  /// Packets that were taken out of the RX ring, and put into the TX ring.
  let received = Atomic<UInt64>(0)
  let transmitted = Atomic<UInt64>(0)
  let deviceRefused = Atomic<UInt64>(0)
  let linkDown = Atomic<UInt64>(0)
  let wakeUpFailed = Atomic<UInt64>(0)
  let invalidFrames = Atomic<UInt64>(0)
  let strays = Atomic<UInt64>(0)
  let strayPackets = Atomic<UInt64>(0)
  let tooLong = Atomic<UInt64>(0)
  let framesInUse = Atomic<UInt64>(0)
  let bulkPackets = Atomic<UInt64>(0)
  let bulkFrames = Atomic<UInt64>(0)
  let bulkWaiting = Atomic<UInt64>(0)
  let bulkBusy = Atomic<UInt64>(0)
  let bulkRefused = Atomic<UInt64>(0)

  /// What `reserve` and `transmit` know of each other and of the link.
  struct LinkState {
    /// Transmit frames that are handed out.
    var handedOut: UInt32 = 0
    /// The last wake-up found the interface down or removed.
    var isDown = false
    /// The rest of the packet that comes out of the RX ring is dropped.
    var isSkipping = false
    /// Because of an address that is none.
    var skipsStray = false
  }

  /// - Parameters:
  ///   - packetSocket: with `bulkLane`.
  ///   - gate: open while packets may leave uncut.
  ///   - deviceCuts: the interface segments TCP.
  ///   - bulkReason: why there is a bulk lane, or none.
  init(
    _ socket: consuming XDPSocket, _ program: XDPProgram, framesPerPacket: Int,
    packetSocket: PacketSocket?, gate: LaneGate, deviceCuts: Bool, bulkLane: BulkLane?,
    bulkReason: String
  ) {
    index = socket.queue
    self.framesPerPacket = framesPerPacket
    fd = socket.descriptor
    descriptor = fd
    longestFrame = UInt32(socket.memory.geometry.frameRoom)
    transmitOffset = socket.transmitOffset
    var mode = "\(program.mode.rawValue), \(socket.zeroCopy ? "zero-copy" : "copy")"
    if let reason = socket.copyReason { mode += " (\(reason))" }
    if framesPerPacket > 1 { mode += ", up to \(framesPerPacket) frames a packet" }
    mode += "; transmit: \(socket.transmitPath.rawValue)"
    fillsChecksums =
      switch socket.checksumFiller {
      case .daemon: false
      case .nic, .kernel, .unchecked: true
      }
    mode += "; checksums: \(socket.checksumFiller.text)"
    mode += "; frame memory in \(socket.memory.pages == .huge ? "huge" : "normal") pages"
    if let node = socket.memory.node { mode += " on NUMA node \(node)" }
    mode += "; bulk lane: \(bulkLane == nil ? "off" : "packet") (\(bulkReason))"
    switch socket.busyPolling {
    case .off: break
    case .on: mode += "; the kernel polls when the worker looks"
    case .refused(let reason): mode += "; no busy polling by the kernel: \(reason)"
    }
    drivesDevice = socket.busyPolling == .on
    self.mode = mode
    self.bulkLane = bulkLane
    self.gate = gate
    lane = PacketLane(
      packetSocket, deviceCuts: deviceCuts,
      frames: socket.memory.geometry.transmitChunks.count,
      framesPerPacket: framesPerPacket)
    self.socket = socket
    self.program = program
  }

  func receive(into batch: borrowing FrameBatch) {
    if socket.rings.value.refill() { XDPSocket.wakeReceive(fd) }
    let room = UInt32(truncatingIfNeeded: batch.capacity &- batch.count)
    var slots = socket.rings.value.receive.peek(room)
    if slots.count == 0 && drivesDevice {
      XDPSocket.wakeReceive(fd)
      slots = socket.rings.value.receive.peek(room)
    }
    guard slots.count > 0 else { return }
    let layout = socket.rings.value.layout
    if framesPerPacket > 1 {
      let before = batch.count
      var done = receivePackets(slots, layout, into: batch)
      // An empty batch says that nothing waits, and whoever sees it falls asleep.  What is left behind
      // a ringful of dropped packets came meanwhile, and wakes them.
      while batch.count == before && done < socket.rings.value.receive.size {
        slots = socket.rings.value.receive.peek(room)
        let more = receivePackets(slots, layout, into: batch)
        if more == 0 { return }
        done &+= more
      }
      return
    }
    count(received, Int(slots.count))
    for i in 0..<slots.count {
      let entry = socket.rings.value.receive.descriptor(at: slots.first &+ i)
      if let chunk = layout.chunk(at: entry.address),
        let data = unsafe layout.pointer(at: entry.address)
      {
        unsafe batch.append(Frame(data: data, length: entry.length, token: chunk))
      } else {
        count(strayPackets, 1)
      }
    }
    socket.rings.value.receive.release()
  }

  /// As above, for packets of several frames.  What is left in the ring of a packet that is not
  /// complete comes again with the next call.
  /// - Returns: entries that were taken out of the ring.
  private func receivePackets(
    _ slots: RingSlots, _ layout: FrameLayout, into batch: borrowing FrameBatch
  ) -> UInt32 {
    // Entries up to here, and frames of the batch, are of complete packets.
    var doneEntries: UInt32 = 0
    var doneFrames = batch.count
    var packets = 0
    for i in 0..<slots.count {
      let entry = socket.rings.value.receive.descriptor(at: slots.first &+ i)
      if let chunk = layout.chunk(at: entry.address),
        let data = unsafe layout.pointer(at: entry.address)
      {
        unsafe batch.append(
          Frame(data: data, length: entry.length, token: chunk, continues: entry.continues))
      } else {
        link.value.isSkipping = true
        link.value.skipsStray = true
      }
      // A NIC drops what is larger than its MTU; the kernel's segmentation offload may not.
      if batch.count &- doneFrames > framesPerPacket { link.value.isSkipping = true }
      if link.value.isSkipping {
        for j in doneFrames..<batch.count {
          unsafe socket.rings.value.receiveFrames.push(batch[j].token)
        }
        batch.removeLast(keeping: doneFrames)
        doneEntries = i &+ 1
        if !entry.continues {
          packets &+= 1
          if link.value.skipsStray { count(strayPackets, 1) } else { count(tooLong, 1) }
          link.value.isSkipping = false
          link.value.skipsStray = false
        }
      } else if !entry.continues {
        packets &+= 1
        doneEntries = i &+ 1
        doneFrames = batch.count
      }
    }
    count(received, packets)
    batch.removeLast(keeping: doneFrames)
    socket.rings.value.receive.cancel(slots.count &- doneEntries)
    socket.rings.value.receive.release()
    return doneEntries
  }

  func recycle(_ batch: borrowing FrameBatch) {
    for i in 0..<batch.count {
      unsafe socket.rings.value.receiveFrames.push(batch[i].token)
    }
    batch.removeAll()
  }

  func reserve(_ most: Int, into batch: borrowing FrameBatch) {
    let stray = socket.rings.value.reap()
    if stray > 0 { count(strays, stray) }
    var most = min(
      UInt32(truncatingIfNeeded: min(most, batch.capacity &- batch.count)),
      UInt32(truncatingIfNeeded: socket.rings.value.transmitFrames.count))
    if !link.value.isDown { most = min(most, freePlaces(most)) }
    let layout = socket.rings.value.layout
    unsafe batch.append(count: Int(most)) {
      let chunk = socket.rings.value.transmitFrames.pop()
      return unsafe Frame(
        data: layout.pointer(to: chunk) + transmitOffset, length: longestFrame, token: chunk)
    }
    link.value.handedOut &+= most
  }

  /// Places of the TX ring that no handed-out frame will need; counts up to `most`.
  @inline(__always)
  func freePlaces(_ most: UInt32) -> UInt32 {
    let promised = link.value.handedOut
    let slots = socket.rings.value.transmit.reserve(promised &+ most)
    socket.rings.value.transmit.cancel(slots.count)
    return slots.count > promised ? slots.count &- promised : 0
  }

  func transmit(_ batch: borrowing FrameBatch, count: Int) {
    if lane.isInUse && count > 0 && !lane.isLeft() { return transmitByLane(batch, count: count) }
    var sent = 0
    if !link.value.isDown || linkIsUpAgain() {
      sent = enqueue(batch, count)
      // Fewer only just after the link came up, with a ring still full of old frames.
    }
    if sent < count { countLinkDown(batch, sent..<count) }
    for i in sent..<batch.count {
      unsafe socket.rings.value.transmitFrames.push(batch[i].token)
    }
    link.value.handedOut &-= UInt32(truncatingIfNeeded: batch.count)
    batch.removeAll()
  }

  /// Puts frames into the TX ring, in order, as long as there are places.
  /// - Returns: frames of the batch that are done with.
  @inline(__always)
  func enqueue(_ batch: borrowing FrameBatch, _ count: Int) -> Int {
    let slots = socket.rings.value.transmit.reserve(UInt32(truncatingIfNeeded: count))
    let layout = socket.rings.value.layout
    if framesPerPacket > 1 { return enqueuePackets(batch, slots, layout) }
    var slot = slots.first
    for i in 0..<Int(slots.count) {
      let frame = unsafe batch[i]
      // Kernels before 6.12 lose a frame with an invalid descriptor for good.
      if unsafe frame.length >= XDPQueue.shortestFrame && frame.length <= longestFrame {
        unsafe socket.rings.value.transmit.setDescriptor(
          address: layout.address(of: frame.data), length: frame.length,
          hasMetadata: frame.hasMetadata, at: slot)
        slot = slot &+ 1
      } else {
        unsafe socket.rings.value.transmitFrames.push(frame.token)
        self.count(invalidFrames, 1)
      }
    }
    socket.rings.value.transmit.cancel(slots.first &+ slots.count &- slot)
    socket.rings.value.transmit.submit()
    self.count(transmitted, Int(slot &- slots.first))
    return Int(slots.count)
  }

  /// As above, for packets of several frames: a packet goes in whole, or not at all.
  private func enqueuePackets(
    _ batch: borrowing FrameBatch, _ slots: RingSlots, _ layout: FrameLayout
  ) -> Int {
    let places = Int(slots.count)
    var slot = slots.first
    var start = 0
    var packets = 0
    packets: while start < places {
      var end = start
      var isValid = unsafe batch[start].length >= XDPQueue.shortestFrame
      while true {
        let frame = unsafe batch[end]
        if unsafe frame.length == 0 || frame.length > longestFrame { isValid = false }
        end &+= 1
        if unsafe !frame.continues { break }
        // Without a place for its end the packet stays out.
        if end == places { break packets }
      }
      for i in start..<end {
        let frame = unsafe batch[i]
        if isValid {
          unsafe socket.rings.value.transmit.setDescriptor(
            address: layout.address(of: frame.data), length: frame.length,
            continues: frame.continues, hasMetadata: frame.hasMetadata, at: slot)
          slot = slot &+ 1
        } else {
          unsafe socket.rings.value.transmitFrames.push(frame.token)
        }
      }
      if isValid { packets &+= 1 } else { self.count(invalidFrames, 1) }
      start = end
    }
    self.count(transmitted, packets)
    socket.rings.value.transmit.cancel(slots.first &+ slots.count &- slot)
    socket.rings.value.transmit.submit()
    return start
  }

  func flush() -> Bool {
    if lane.waiting.count > 0 && !sendWaiting() {
      if lane.state.value.isLeaving { _ = flushRing() }
      return true
    }
    return flushRing()
  }

  private func flushRing() -> Bool {
    var before = socket.rings.value.transmit.pending
    guard before > 0 else { return false }
    guard socket.rings.value.transmit.needsWakeUp else { return true }
    for _ in 0..<XDPQueue.wakeUpsPerFlush {
      switch XDPSocket.wakeTransmit(fd) {
      case .done:
        link.value.isDown = false
        return socket.zeroCopy && socket.rings.value.transmit.pending > 0
      case .again: break
      case .refused: count(deviceRefused, 1)
      case .linkDown, .gone:
        link.value.isDown = true
        return false
      case .failed:
        count(wakeUpFailed, 1)
        return false
      }
      link.value.isDown = false
      let now = socket.rings.value.transmit.pending
      if now == 0 { return false }
      // No progress: the device is full, and time has to pass; or the completion ring is, and a guest
      // that sends nothing more would never empty it.
      if now == before {
        let stray = socket.rings.value.reap()
        if stray > 0 { count(strays, stray) }
        return true
      }
      before = now
    }
    return true
  }

  func countLinkDown(_ batch: borrowing FrameBatch, _ frames: Range<Int>) {
    var packets = 0
    for i in frames { if unsafe !batch[i].continues { packets &+= 1 } }
    count(linkDown, packets)
  }

  /// Asks the kernel again; what waits in the ring goes out then.
  func linkIsUpAgain() -> Bool {
    switch XDPSocket.wakeTransmit(fd) {
    case .linkDown, .gone: return false
    case .refused: count(deviceRefused, 1)
    case .done, .again, .failed: break
    }
    link.value.isDown = false
    return true
  }

  /// One writer, any reader: no locked instruction.
  @inline(__always)
  func count(_ counter: borrowing Atomic<UInt64>, _ events: Int) {
    counter.store(counter.load(ordering: .relaxed) &+ UInt64(events), ordering: .relaxed)
  }

  /// At rest a frame is in a free list or in the fill ring.
  func countFrames() {
    let stray = socket.rings.value.reap()
    if stray > 0 { count(strays, stray) }
    let free =
      socket.rings.value.receiveFrames.count &+ Int(socket.rings.value.fill.pending)
      &+ socket.rings.value.transmitFrames.count
    let inUse = socket.memory.geometry.count &- free
    framesInUse.store(UInt64(max(inUse, 0)), ordering: .relaxed)
  }
}
