// Fuzzes what a guest asks of the device: a virtio-net header and the packet behind it.
//
// The input is both.  Whatever is accepted must have places inside the packet; the headers of every
// segment are written into memory of just their length, which the sanitizer guards, and checked.
//
//   FUZZ=1 swift build -c release --scratch-path .build-fuzz --product offload-fuzz
//   .build-fuzz/release/offload-fuzz -max_total_time=60 -timeout=5
import Fuzzing
import Packet

/// What inputs must come to.
enum Goal: Int, CaseIterable {
  case ipv4, ipv6, tcp, udp, checksum, usualChecksum, segments, uncut
}

let goals = Goals(Goal.self)

func run(_ input: UnsafeRawBufferPointer) {
  guard input.count >= 12 else { return }
  let header = unsafe VirtioNetHeader(
    low: input.loadUnaligned(as: UInt64.self),
    high: input.loadUnaligned(fromByteOffset: 8, as: UInt32.self))
  let packet = unsafe UnsafeRawBufferPointer(rebasing: input[12...])
  // As in the data path: only the first bytes are looked at, and they lie in a memory of their own.
  let copied = min(packet.count, 256)
  let copy = UnsafeMutableRawPointer.allocate(byteCount: copied, alignment: 1)
  defer { unsafe copy.deallocate() }
  if copied > 0 { unsafe copy.copyMemory(from: packet.baseAddress!, byteCount: copied) }
  let headers = unsafe FrameHeaders(copy, count: copied)
  if let headers {
    require(headers.networkStart < headers.transportStart, "an IP header of no length")
    require(headers.transportStart <= copied, "a transport header beyond the bytes")
    require((headers.payloadStart ?? 0) <= copied, "a payload beyond the bytes")
    goals.reach(headers.network == .ipv4 ? Goal.ipv4 : .ipv6)
    if headers.transport == FrameHeaders.tcp { goals.reach(Goal.tcp) }
    if headers.transport == FrameHeaders.udp { goals.reach(Goal.udp) }
  }
  if let usual = unsafe UsualHeaders(copy, length: packet.count),
    let plan = ChecksumOffload(header, of: usual, length: packet.count)
  {
    require(plan.field + 2 <= packet.count, "a checksum outside")
    require(
      plan == ChecksumOffload(header, of: headers, length: packet.count),
      "the short look sees other headers than the long one")
    _ = unsafe usual.fit(copy, length: packet.count)
    goals.reach(Goal.usualChecksum)
  }
  if header.needsChecksumFilled,
    let plan = ChecksumOffload(header, of: headers, length: packet.count)
  {
    require(plan.start <= plan.field && plan.field + 2 <= packet.count, "a checksum outside")
    goals.reach(Goal.checksum)
  }
  guard let headers, let plan = Segmentation(header, of: headers, length: packet.count) else {
    return
  }
  require(plan.headerLength <= copied && plan.count >= 1, "no segments")
  var payload = 0
  let target = UnsafeMutableRawPointer.allocate(byteCount: plan.headerLength, alignment: 1)
  defer { unsafe target.deallocate() }
  for index in 0..<plan.count {
    payload += plan.payload(of: index)
    if index > 3 && index < plan.count - 3 { continue }
    unsafe plan.writeHeaders(of: index, from: copy, payloadSum: UInt64(index), to: target)
    let again = unsafe FrameHeaders(target, count: plan.headerLength)
    require(again == headers, "other headers than the packet's")
  }
  require(payload == plan.payloadLength, "segments do not add up")
  if plan.count > 1 { goals.reach(Goal.segments) }
  guard plan.fitsUncut else { return }
  goals.reach(Goal.uncut)
  // What leaves uncut must still be the same packet to whoever cuts it.
  unsafe plan.writeUncutHeaders(from: copy, to: target)
  let own = unsafe plan.uncutHeader(copy)
  let again = unsafe FrameHeaders(target, count: plan.headerLength)
  require(again == headers, "other headers than the packet's, uncut")
  require(
    Segmentation(own, of: headers, length: packet.count) == plan, "another plan, uncut")
}

@main struct Fuzz {
  static func main() { unsafe fuzz(goals) { unsafe run($0) } }
}
