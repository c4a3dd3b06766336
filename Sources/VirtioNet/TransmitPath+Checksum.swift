// The checksum of a packet that is not cut (virtio 1.3, 5.1.6.2).
//
// Nearly all packets have the usual headers and fit a frame: they are copied first, and looked at and
// summed there, where no guest can change them.  Of any other only the headers are private before the
// rest is copied and summed in one go.
//
// A device that fills in checksums is left those with the usual headers alone, with lengths that fit:
// some find the headers by themselves and do not care where the guest says that the sum begins.
import HostPort
import Packet
import Virtqueue

extension TransmitPath {
  /// Moves a packet in one buffer, which fits a frame, into frame `index` of the batch, if it has the
  /// usual headers and only wants its checksum filled in.
  /// - Returns: false if not; nothing has happened then but that bytes of the frame were written.
  @inline(__always)
  func moveUsual(_ buffer: SingleBuffer, toFrame index: Int) -> Bool {
    let header = VirtioNetHeader(buffer.header)
    guard header.wantsChecksumOnly, mayFillChecksums else { return false }
    unsafe buffer.copy(from: VirtioNetHeader.modernLength, to: batch[index].data)
    return fillUsual(
      header, length: buffer.byteCount &- VirtioNetHeader.modernLength, inFrame: index)
  }

  /// Moves the packet that was collected likewise.
  @inline(__always)
  func moveUsual(_ header: VirtioNetHeader, length: Int, toFrame index: Int) -> Bool {
    let frame = unsafe batch[index]
    guard header.wantsChecksumOnly, unsafe length <= Int(frame.length) else { return false }
    unsafe buffers.copy(from: headerLength, length: length, to: frame.data)
    return fillUsual(header, length: length, inFrame: index)
  }

  /// Fills in the checksum of a packet that was copied into frame `index`, or leaves it to the device.
  /// - Returns: false if it has not the usual headers, or `header` does not fit them.
  @inline(__always)
  private func fillUsual(_ header: VirtioNetHeader, length: Int, inFrame index: Int) -> Bool {
    let data = unsafe batch[index].data
    guard let headers = unsafe UsualHeaders(data, length: length),
      let plan = ChecksumOffload(header, of: headers, length: length)
    else { return false }
    unsafe batch[index].length = UInt32(truncatingIfNeeded: length)
    if deviceFillsChecksums, unsafe headers.fit(data, length: length) {
      unsafe batch[index].leaveChecksum(from: header.checksumStart, at: header.checksumOffset)
      return true
    }
    let sum = unsafe InternetChecksum.sum(data + plan.start, count: length &- plan.start)
    unsafe (data + plan.field).storeBytes(of: plan.checksum(of: sum), as: UInt16.self)
    return true
  }

  func fillChecksum(
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
    unsafe field.storeBytes(of: plan.checksum(of: sum), as: UInt16.self)
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
  func copySumming(
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
}
