// Fuzzes the merging of received packets.
//
// The input is a batch of frames: for each, two bytes of length and choices, and its own bytes, or the
// last frame's with a few changed, since packets that have nothing in common are never merged; with
// right checksums, if it says so.  A frame lies in memory of just its length, which the sanitizer guards.
// What comes out must be the same frames, the merged ones cut again by the code that cuts a guest's own
// packets, and taken apart again.
//
//   FUZZ=1 swift build -c release --scratch-path .build-fuzz --product merge-fuzz
//   .build-fuzz/release/merge-fuzz -max_total_time=60 -timeout=5
import Fuzzing
import HostPort
import Packet
import VirtioNet

/// What inputs must come to.
enum Goal: Int, CaseIterable {
  case tcp4, tcp6, udp4, udp6, fourOrMore
}

let goals = Goals(Goal.self)

/// Frames of the input, and what may be merged.
func frames(of input: UnsafeRawBufferPointer) -> (kinds: MergeKinds, frames: [[UInt8]]) {
  var frames: [[UInt8]] = []
  var next = 1
  while next + 2 <= input.count, frames.count < FrameBatch.standardCapacity {
    let (size, choice) = unsafe (Int(input[next]), input[next + 1])
    next += 2
    var frame: [UInt8]
    if choice & 1 == 1, let last = frames.last {
      frame = last
      for _ in 0..<Int(choice >> 1 & 3) where next + 2 <= input.count && !frame.isEmpty {
        unsafe frame[Int(input[next]) % frame.count] = input[next + 1]
        next += 2
      }
      if choice & 0x40 != 0 { advance(&frame) }
    } else {
      frame = unsafe Array(input[next..<min(next + size, input.count)])
      next += frame.count
      // At the least an Ethernet header, as ports see to it.
      if frame.count < 16 { frame += [UInt8](repeating: 0, count: 16 - frame.count) }
    }
    if choice & 0x80 != 0 { sum(&frame) }
    frames.append(frame)
  }
  return (unsafe MergeKinds(rawValue: input[0]), frames)
}

func headers(_ frame: [UInt8]) -> FrameHeaders? {
  unsafe frame.withUnsafeBytes { unsafe FrameHeaders($0.baseAddress!, count: frame.count) }
}

/// Makes of a packet the one that follows it.
func advance(_ frame: inout [UInt8]) {
  guard let found = headers(frame) else { return }
  if found.network == .ipv4 { frame[found.networkStart + 5] &+= 1 }
  guard found.transport == FrameHeaders.tcp, let start = found.payloadStart else { return }
  let place = found.transportStart + 4
  var sequence = frame[place..<place + 4].reduce(UInt32(0)) { $0 << 8 | UInt32($1) }
  sequence &+= UInt32(frame.count - start)
  for i in 0..<4 { frame[place + i] = UInt8(truncatingIfNeeded: sequence >> UInt32(24 - 8 * i)) }
}

/// Gives it the lengths and checksums that it should have.
func sum(_ frame: inout [UInt8]) {
  guard let found = headers(frame), let start = found.payloadStart,
    let plan = cut(found, start, frame.count)
  else { return }
  let template = frame
  unsafe template.withUnsafeBytes { from in
    let payload = unsafe InternetChecksum.sum(
      from.baseAddress! + start, count: frame.count - start)
    unsafe frame.withUnsafeMutableBytes {
      unsafe plan.writeHeaders(
        of: 0, from: from.baseAddress!, payloadSum: payload, to: $0.baseAddress!)
    }
  }
}

/// To cut a packet of so many bytes into one.
func cut(_ found: FrameHeaders, _ start: Int, _ count: Int) -> Segmentation? {
  var header = VirtioNetHeader(low: 0, high: 0)
  header.flags = 1
  header.gsoType =
    found.transport == FrameHeaders.udp ? 5 : found.network == .ipv4 ? 1 : 4
  header.gsoSize = UInt16(truncatingIfNeeded: max(1, count - start))
  header.checksumStart = UInt16(found.transportStart)
  header.checksumOffset = found.transport == FrameHeaders.udp ? 6 : 16
  return Segmentation(header, of: found, length: count)
}

func run(_ input: UnsafeRawBufferPointer) {
  guard input.count > 3 else { return }
  let (kinds, came) = unsafe frames(of: input)
  guard !came.isEmpty else { return }
  let batch = FrameBatch()
  for (i, frame) in came.enumerated() {
    let place = UnsafeMutableRawPointer.allocate(byteCount: frame.count, alignment: 1)
    unsafe frame.withUnsafeBytes {
      unsafe place.copyMemory(from: $0.baseAddress!, byteCount: frame.count)
    }
    unsafe batch.append(Frame(data: place, length: UInt32(frame.count), token: UInt32(i)))
  }
  // Taken apart again, frames are where they were.
  defer { for i in 0..<batch.count { unsafe batch[i].data.deallocate() } }
  let coalescer = Coalescer()
  let most = unsafe 2 + Int(input[0]) % 63
  let outcome = coalescer.merge(batch, kinds, most: most)
  require(batch.count == came.count, "frames got lost")
  var tokens: Set<UInt32> = []
  for i in 0..<batch.count { unsafe tokens.insert(batch[i].token) }
  require(tokens.count == came.count, "a frame twice")
  var merged = 0
  var first = 0
  while first < batch.count {
    var end = first + 1
    while unsafe batch[end - 1].continues { end += 1 }
    let token = unsafe Int(batch[first].token)
    if unsafe batch[first].isMerged {
      merged += 1
      require(end > first + 1, "merged from one")
      check(batch, first, end, came)
    } else {
      require(end == first + 1, "several frames that are not merged")
      let frame = unsafe bytes(batch[first])
      require(frame == came[token], "another packet than came")
    }
    first = end
  }
  require(merged == outcome.merged, "miscounted")
  Coalescer.splitAll(batch)
  for i in 0..<batch.count {
    let token = unsafe Int(batch[i].token)
    let frame = unsafe bytes(batch[i])
    // What Ethernet has added behind the packet is gone, and a sum may be the other zero.
    require(frame.count <= came[token].count && frame.count > 30 || frame == came[token], "cut off")
    let same = zip(frame, came[token]).count { $0 == $1 }
    require(same >= frame.count - 2, "not what it was before it was merged")
  }
}

func bytes(_ frame: Frame) -> [UInt8] {
  unsafe Array(UnsafeRawBufferPointer(start: frame.data, count: Int(frame.length)))
}

/// Cuts the merged packet in the frames from `first` to before `end`, and compares.
func check(_ batch: borrowing FrameBatch, _ first: Int, _ end: Int, _ came: [[UInt8]]) {
  var packet: [UInt8] = []
  for i in first..<end { unsafe packet += bytes(batch[i]) }
  let own = unsafe Int(batch[first].length)
  guard
    let head = unsafe ReceivedSegment(merged: batch[first].data, count: own),
    let found = headers(packet),
    let plan = Segmentation(head.mergedHeader, of: found, length: packet.count)
  else { fatalError("a merged packet that cannot be cut") }
  require(packet.count <= ReceivedSegment.largestPacket, "too long")
  require(plan.count == end - first, "not as many segments as came")
  let isTCP = found.transport == FrameHeaders.tcp
  if found.network == .ipv4 {
    goals.reach(isTCP ? Goal.tcp4 : .udp4)
  } else {
    goals.reach(isTCP ? Goal.tcp6 : .udp6)
  }
  if plan.count >= 4 { goals.reach(Goal.fourOrMore) }
  for index in 0..<plan.count {
    let start = plan.headerLength + index * plan.segmentSize
    let payload = Array(packet[start..<start + plan.payload(of: index)])
    var piece = [UInt8](repeating: 0, count: plan.headerLength) + payload
    unsafe packet.withUnsafeBytes { from in
      let sum = unsafe InternetChecksum.sum(from.baseAddress! + start, count: payload.count)
      unsafe piece.withUnsafeMutableBytes {
        unsafe plan.writeHeaders(
          of: index, from: from.baseAddress!, payloadSum: sum, to: $0.baseAddress!)
      }
    }
    let token = unsafe Int(batch[first + index].token)
    require(came[token].count >= piece.count, "longer than what came")
    for (i, byte) in piece.enumerated() where byte != came[token][i] {
      // Identifications that stay the same, so the checksum; either zero of a checksum.
      let isIdentification =
        found.network == .ipv4
        && [4, 5, 10, 11].contains(i - found.networkStart)
      let field = i - found.transportStart - (found.transport == FrameHeaders.tcp ? 16 : 6)
      require(isIdentification || field == 0 || field == 1, "cut, it is another packet: byte \(i)")
    }
  }
}

@main struct Fuzz {
  static func main() { unsafe fuzz(goals) { unsafe run($0) } }
}
