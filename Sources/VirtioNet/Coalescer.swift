// Merges the packets of a batch (GRO).  ReceiveOffloads.swift says what becomes of the frames, and
// Coalescing.swift in Packet which packets belong together.
//
// One pass over the batch.  A packet goes behind the last one of its flow, or begins a run that others
// may join; one of the flow that does not fit ends its run, so that nothing overtakes it.  A run is
// found by a table of few places, of which packets with the same addresses and ports always meet in
// one: another flow there only ends the run, so that nothing has to be searched, however many flows
// somebody thinks up.
//
// Checksums are summed last, and only where there is something to merge: a packet that stays alone
// costs a look at its headers.
package import HostPort
package import Packet
import SharedRing

package struct Coalescer: ~Copyable {
  /// Packets of a flow, each of which continues the one before.  Not private: Swift 6.3.1 then makes
  /// debug information of the files that hold a `Coalescer` that its own verifier refuses.
  struct Run: BitwiseCopyable {
    /// The first one, and its frame.
    var head: ReceivedSegment
    var first: UInt8
    var last: UInt8
    var count: UInt8 = 1
    /// What identifications rise by, once it is known.
    var step: Step = .unknown
    /// The last packet has PSH.
    var isPushed = false
    var identification: UInt16 = 0
    /// Bytes of the packet that the run makes.
    var length: UInt32
    /// Sequence number of what comes next.
    var sequence: UInt32

    enum Step: UInt8, BitwiseCopyable {
      case unknown, same, next
    }
  }

  /// What became of a batch.
  package struct Outcome {
    /// Packets that others were merged into, and packets in them.
    package var merged = 0
    package var segments = 0
  }

  /// In the order of their first packets.
  private let runs: FixedBuffer<Run>
  /// By `ReceivedSegment.slot`, the run that may go on there.  What former batches have left is
  /// recognised: there is no such run, or it is of another slot.
  private let open = FixedBuffer<UInt8>(
    repeating: Coalescer.none, count: ReceivedSegment.slotCount)
  private static var none: UInt8 { @inline(__always) get { 0xff } }
  /// By frame: the frame behind it in its packet, 0 for none; with `isBehind` if it is behind one.
  private let links = FixedBuffer<UInt8>(repeating: 0, count: FrameBatch.standardCapacity)
  private static var isBehind: UInt8 { @inline(__always) get { 0x80 } }
  private let sorted = FrameBatch()

  package init() {
    let nothing = Run(head: .nothing, first: 0, last: 0, length: 0, sequence: 0)
    runs = FixedBuffer(repeating: nothing, count: FrameBatch.standardCapacity)
  }

  /// Merges what can be merged.  Packets stay in the order of their first frames.
  /// - Parameters:
  ///   - batch: at most `FrameBatch.standardCapacity` frames, none merged.
  ///   - kinds: of packets that are looked at.
  ///   - most: packets that become one, at least 2.
  @inline(never)
  package func merge(_ batch: borrowing FrameBatch, _ kinds: MergeKinds, most: Int) -> Outcome {
    var outcome = Outcome()
    var count = 0
    // Runs before this one are over.
    var floor = 0
    var isScattered = false
    var isContinued = false
    for i in 0..<min(batch.count, FrameBatch.standardCapacity) {
      let frame = unsafe batch[i]
      links[i] = 0
      let isWhole = unsafe !isContinued && !frame.continues
      let isFirst = !isContinued
      unsafe isContinued = frame.continues
      guard isFirst else { continue }
      switch unsafe ReceivedSegment.look(
        at: frame.data, count: Int(frame.length), wanted: kinds)
      {
      case .foreign: break
      case .unclear: floor = count
      case .segment(let segment) where isWhole:
        let number = Int(open[Int(segment.slot)])
        var isIntact = true
        if number < count, number >= floor, runs[number].head.slot == segment.slot {
          switch unsafe join(segment, frame, i, run: number, of: batch, most: most) {
          case .joined(let behind):
            if behind != i &- 1 { isScattered = true }
            outcome.segments &+= 1
            continue
          case .refused: break
          case .damaged: isIntact = false
          }
          open[Int(segment.slot)] = Coalescer.none
        }
        guard isIntact, segment.mayLead(kinds) else { break }
        runs[count] = unsafe Run(
          head: segment, first: UInt8(truncatingIfNeeded: i), last: UInt8(truncatingIfNeeded: i),
          identification: segment.isIPv4 ? segment.identification(frame.data) : 0,
          length: UInt32(segment.headerLength) &+ UInt32(segment.payloadLength),
          sequence: segment.sequence &+ UInt32(segment.payloadLength))
        open[Int(segment.slot)] = UInt8(truncatingIfNeeded: count)
        count &+= 1
      case .segment(let segment):
        // It lies in several frames.
        open[Int(segment.slot)] = Coalescer.none
      }
    }
    guard outcome.segments > 0 else { return outcome }
    for number in 0..<count where runs[number].count > 1 {
      unsafe runs[number].head.mergeHeaders(
        batch[Int(runs[number].first)].data,
        payload: Int(runs[number].length) &- Int(runs[number].head.headerLength),
        pushed: runs[number].isPushed)
      outcome.merged &+= 1
    }
    outcome.segments &+= outcome.merged
    if isScattered { sort(batch) }
    return outcome
  }

  private enum Joining {
    /// Behind this frame.
    case joined(Int)
    case refused
    /// Its own checksums are wrong.
    case damaged
  }

  /// Puts the packet in frame `index` behind the run, if it continues that.
  @inline(never)
  private func join(
    _ segment: ReceivedSegment, _ frame: Frame, _ index: Int, run number: Int,
    of batch: borrowing FrameBatch, most: Int
  ) -> Joining {
    var run = runs[number]
    let first = unsafe batch[Int(run.first)]
    let length = run.length &+ UInt32(segment.payloadLength)
    guard segment.mayFollow, segment.payloadLength <= run.head.payloadLength,
      !segment.isTCP || segment.sequence == run.sequence,
      length <= ReceivedSegment.largestPacket,
      unsafe segment.hasHeaders(frame.data, of: run.head, first.data)
    else { return .refused }
    if segment.isIPv4 {
      let identification = unsafe segment.identification(frame.data)
      let step: Run.Step
      if identification == run.identification &+ 1 {
        step = .next
      } else if unsafe identification == run.identification && segment.isUnfragmentable(frame.data)
      {
        step = .same
      } else {
        return .refused
      }
      guard run.step == .unknown || run.step == step else { return .refused }
      run.step = step
      run.identification = identification
    }
    if unsafe !first.isVerified {
      guard unsafe run.head.isIntact(first.data) else { return .refused }
      unsafe batch[Int(run.first)].isVerified = true
    }
    guard unsafe segment.isIntact(frame.data) else { return .damaged }
    if run.count == 1 {
      unsafe batch[Int(run.first)].isMerged = true
      // Without what Ethernet may have added.
      unsafe batch[Int(run.first)].length = run.length
    }
    let last = Int(run.last)
    unsafe batch[last].continues = true
    let header = Int(segment.headerLength)
    unsafe batch[index].isVerified = true
    unsafe batch[index].data = frame.data + header
    unsafe batch[index].length = UInt32(segment.payloadLength)
    links[last] = links[last] & Coalescer.isBehind | UInt8(truncatingIfNeeded: index)
    links[index] = Coalescer.isBehind
    run.last = UInt8(truncatingIfNeeded: index)
    run.count &+= 1
    run.length = length
    run.sequence = run.sequence &+ UInt32(segment.payloadLength)
    run.isPushed = segment.isPushed
    runs[number] = run
    if segment.isPushed || segment.payloadLength < run.head.payloadLength
      || Int(run.count) >= most
    {
      open[Int(segment.slot)] = Coalescer.none
    }
    return .joined(last)
  }

  /// Puts the frames of a packet behind each other.
  private func sort(_ batch: borrowing FrameBatch) {
    sorted.removeAll()
    for i in 0..<batch.count where links[i] & Coalescer.isBehind == 0 {
      var frame = i
      while true {
        unsafe sorted.append(batch[frame])
        frame = Int(links[frame] & ~Coalescer.isBehind)
        if frame == 0 { break }
      }
    }
    for i in 0..<sorted.count { unsafe batch[i] = sorted[i] }
  }

  /// Takes the merged packet in the frames from `first` to before `end` apart again.
  package static func split(_ batch: borrowing FrameBatch, from first: Int, to end: Int) {
    guard
      let head = unsafe ReceivedSegment(
        merged: batch[first].data, count: Int(batch[first].length))
    else { return }
    unsafe head.restoreHeaders(batch[first].data)
    unsafe batch[first].isMerged = false
    for i in first..<end {
      unsafe batch[i].continues = false
      if i > first {
        unsafe batch[i].data -= Int(head.headerLength)
        unsafe batch[i].length &+= UInt32(head.headerLength)
      }
    }
  }

  /// Takes all merged packets apart, and forgets what was verified.
  package static func splitAll(_ batch: borrowing FrameBatch) {
    var first = 0
    while first < batch.count {
      var end = first
      while unsafe batch[end].continues && end &+ 1 < batch.count { end &+= 1 }
      end &+= 1
      if unsafe batch[first].isMerged { split(batch, from: first, to: end) }
      for i in first..<end { unsafe batch[i].isVerified = false }
      first = end
    }
  }
}
