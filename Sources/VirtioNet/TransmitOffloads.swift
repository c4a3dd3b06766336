// What a guest's driver leaves to the device: the checksum of a packet, or cutting it into segments.
//
// A packet's headers are copied once into private memory, and only that copy is looked at; it is also
// what leaves.  The payload is summed while it is copied into the frames.  `hdr_len` is not used: it
// is a hint, and drivers have been wrong about it.
//
// Hostile: header and packet.  What contradicts itself is dropped and counted, never guessed.
import Virtqueue
import HostPort
import Packet

/// What can be left to the device; `--disable-offload` names them.
public enum Offload: String, CaseIterable, Sendable {
  /// The checksum of packets that the guest transmits; tso and uso rest on it.
  case checksum = "csum"
  /// Cutting TCP over IPv4 and IPv6.
  case tso
  /// Cutting UDP over IPv4 and IPv6.
  case uso
  /// The checksum of packets that the guest receives; merging rests on it.
  case receiveChecksum = "rxcsum"
  /// Merging received TCP and UDP, over IPv4 and IPv6.
  case merging = "gro"
}

extension VirtioFeatures {
  /// What is offered so that drivers may leave `offloads` to the device.
  static func transmit(_ offloads: Set<Offload>) -> VirtioFeatures {
    guard offloads.contains(.checksum) else { return [] }
    var features: VirtioFeatures = .csum
    if offloads.contains(.tso) { features.formUnion([.hostTSO4, .hostTSO6, .hostECN]) }
    if offloads.contains(.uso) { features.insert(.hostUSO) }
    return features
  }
}

/// What was negotiated.
struct TransmitOffloads {
  let features: VirtioFeatures

  /// Packets may need more frames than there are chains.
  var segments: Bool { !features.isDisjoint(with: [.hostTSO4, .hostTSO6, .hostUSO]) }

  /// Whether the driver may ask for what `header` asks for.
  func allow(_ header: VirtioNetHeader) -> Bool {
    if header.needsChecksumFilled && !features.contains(.csum) { return false }
    if !header.isSegmented { return true }
    if header.marksECN && !features.contains(.hostECN) { return false }
    return switch header.segmentationType {
    case .tcp4: features.contains(.hostTSO4)
    case .tcp6: features.contains(.hostTSO6)
    case .udp: features.contains(.hostUSO)
    case nil: false
    }
  }
}

/// A private copy of a packet's first bytes: all headers, unless a guest has made them absurdly long.
@safe
struct HeaderCopy: ~Copyable {
  static let capacity = 256
  let bytes: UnsafeMutableRawPointer

  init() { unsafe bytes = .allocate(byteCount: HeaderCopy.capacity, alignment: 64) }
  deinit { unsafe bytes.deallocate() }
}

extension TransmitPath {
  /// Copies the packet that was collected into the frames of the batch from `first` on, and does what
  /// `header` asks for; returns how many frames it took, 0 for a packet that was dropped or has left
  /// without any, and was counted, nil if it has to wait: for more frames, or for those before it.
  @inline(never)
  func moveOffloaded(_ header: VirtioNetHeader, toFrame first: Int) -> Int? {
    guard offloads.allow(header) else {
      counters.drop(.badHeader)
      return 0
    }
    let length = buffers.byteCount &- headerLength
    let copied = min(length, HeaderCopy.capacity)
    unsafe buffers.copy(from: headerLength, length: copied, to: headerCopy.bytes)
    let headers = unsafe FrameHeaders(headerCopy.bytes, count: copied)
    if header.isSegmented {
      if let headers, let plan = Segmentation(header, of: headers, length: length) {
        return segment(plan, toFrame: first)
      }
    } else if let plan = ChecksumOffload(header, of: headers, length: length) {
      return fillChecksum(plan, length: length, copied: copied, toFrame: first)
    }
    counters.drop(.badOffload)
    return 0
  }

  // MARK: checksum

  private func fillChecksum(
    _ plan: ChecksumOffload, length: Int, copied: Int, toFrame first: Int
  ) -> Int {
    let room = unsafe Int(batch[first].length)
    guard length <= room &* framesPerPacket else {
      counters.drop(.tooLong)
      return 0
    }
    // The first frame of several has more room than any headers need.
    guard plan.field &+ 2 <= room else {
      counters.drop(.badOffload)
      return 0
    }
    var sum: UInt64 = 0
    var index = first
    var written = 0
    while written < length {
      let end = min(written &+ room, length)
      sum &+= unsafe write(
        written..<end, to: batch[index].data, summedFrom: plan.start, copied: copied)
      unsafe batch[index].length = UInt32(truncatingIfNeeded: end &- written)
      unsafe batch[index].continues = end < length
      written = end
      index &+= 1
    }
    let field = unsafe batch[first].data + plan.field
    unsafe field.storeBytes(of: InternetChecksum.nonzeroChecksum(sum), as: UInt16.self)
    return index &- first
  }

  /// Copies the packet's bytes `range`; returns what those from `start` on add to the sum over all of
  /// these.  The first `copied` are taken from the private copy.
  private func write(
    _ range: Range<Int>, to destination: UnsafeMutableRawPointer, summedFrom start: Int, copied: Int
  ) -> UInt64 {
    var sum: UInt64 = 0
    var next = range.lowerBound
    let own = min(range.upperBound, copied)
    if next < own {
      unsafe destination.copyMemory(from: headerCopy.bytes + next, byteCount: own &- next)
      let from = max(next, start)
      if from < own {
        let part = unsafe InternetChecksum.sum(headerCopy.bytes + from, count: own &- from)
        sum &+= (from &- start) & 1 == 0 ? part : InternetChecksum.atOddPlace(part)
      }
      next = own
    }
    let unsummed = min(range.upperBound, start)
    if next < unsummed {
      unsafe buffers.copy(
        from: headerLength &+ next, length: unsummed &- next,
        to: destination + (next &- range.lowerBound))
      next = unsummed
    }
    if next < range.upperBound {
      sum &+= unsafe copySumming(
        next..<range.upperBound, to: destination + (next &- range.lowerBound),
        place: next &- start)
    }
    return sum
  }

  /// Copies the packet's bytes `range` from guest memory; returns their sum, as part of one in which
  /// they begin at byte `place`.
  @inline(__always)
  private func copySumming(
    _ range: Range<Int>, to destination: UnsafeMutableRawPointer, place: Int
  ) -> UInt64 {
    var sum: UInt64 = 0
    var done = 0
    unsafe buffers.forEachPiece(from: headerLength &+ range.lowerBound, length: range.count) {
      bytes, count in
      let part = unsafe InternetChecksum.copy(bytes, to: destination + done, count: count)
      sum &+= (place &+ done) & 1 == 0 ? part : InternetChecksum.atOddPlace(part)
      done &+= count
    }
    return sum
  }

  // MARK: segments

  private func segment(_ plan: Segmentation, toFrame first: Int) -> Int? {
    let room = unsafe Int(batch[first].length)
    let framesPerSegment = (plan.longest &+ room &- 1) / room
    guard framesPerSegment <= framesPerPacket, plan.headerLength <= room else {
      counters.drop(.tooLong)
      return 0
    }
    let needed = plan.count &* framesPerSegment
    guard needed <= batch.capacity else {
      counters.drop(.tooManySegments)
      return 0
    }
    if plan.count >= uncut.leastSegments {
      switch sendUncut(plan, behind: first) {
      case .taken: return 0
      case .wait: return nil
      case .cut: break
      }
    }
    if first &+ needed > batch.count {
      port.reserve(first &+ needed &- batch.count, into: batch)
      guard first &+ needed <= batch.count else { return nil }
    }
    var index = first
    for number in 0..<plan.count {
      index &+= writeSegment(number, of: plan, toFrame: index, room: room)
    }
    counters.segments.add(plan.count)
    return index &- first
  }

  /// Returns how many frames it took.
  private func writeSegment(
    _ number: Int, of plan: Segmentation, toFrame first: Int, room: Int
  ) -> Int {
    let payload = plan.payload(of: number)
    let start = plan.headerLength &+ number &* plan.segmentSize
    var sum: UInt64 = 0
    var done = 0
    var index = first
    var offset = plan.headerLength
    repeat {
      let part = min(payload &- done, room &- offset)
      sum &+= unsafe copySumming(
        start &+ done..<start &+ done &+ part, to: batch[index].data + offset, place: done)
      done &+= part
      unsafe batch[index].length = UInt32(truncatingIfNeeded: offset &+ part)
      unsafe batch[index].continues = done < payload
      index &+= 1
      offset = 0
    } while done < payload
    unsafe plan.writeHeaders(
      of: number, from: headerCopy.bytes, payloadSum: sum, to: batch[first].data)
    return index &- first
  }
}
