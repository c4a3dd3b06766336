// What a guest's driver leaves to the device: the checksum of a packet, or cutting it into segments.
//
// A packet's headers are copied once into private memory, and only that copy is looked at; it is also
// what leaves.  The payload is summed while it is copied into the frames, unless the device that sends
// them does it.  `hdr_len` is not used: it is a hint, and drivers have been wrong about it.
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
  /// The daemon's own: leaving checksums to the NIC.  Nothing that a driver gets to see.
  case hardwareChecksum = "hwcsum"
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
    if moveUsual(header, length: length, toFrame: first) { return 1 }
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
    counters.cut.add(1)
    counters.segments.add(plan.count)
    return index &- first
  }

  /// Returns how many frames it took.
  private func writeSegment(
    _ number: Int, of plan: Segmentation, toFrame first: Int, room: Int
  ) -> Int {
    let payload = plan.payload(of: number)
    let start = plan.headerLength &+ number &* plan.segmentSize
    if deviceFillsChecksums && plan.longest <= room && plan.headers.areUsual {
      writeOpenSegment(number, of: plan, toFrame: first)
      return 1
    }
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

  /// Writes a segment whose checksum the device fills in; it fits a frame.
  private func writeOpenSegment(_ number: Int, of plan: Segmentation, toFrame index: Int) {
    let payload = plan.payload(of: number)
    let data = unsafe batch[index].data
    unsafe buffers.copy(
      from: headerLength &+ plan.headerLength &+ number &* plan.segmentSize, length: payload,
      to: data + plan.headerLength)
    unsafe plan.writeHeaders(of: number, from: headerCopy.bytes, payloadSum: nil, to: data)
    unsafe batch[index].length = UInt32(truncatingIfNeeded: plan.headerLength &+ payload)
    unsafe batch[index].leaveChecksum(
      from: UInt16(truncatingIfNeeded: plan.headers.transportStart),
      at: UInt16(truncatingIfNeeded: plan.checksumOffset))
  }
}
