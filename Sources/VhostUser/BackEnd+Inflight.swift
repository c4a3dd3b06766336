// The in-flight area, and what GET_VRING_BASE_INFLIGHT adds to it (vhost-user specification,
// "Inflight I/O tracking").
//
// GET_INFLIGHT_FD makes an area and hands it out; nothing is done with it until the front-end gives
// it back, or gives one of an earlier back-end, with SET_INFLIGHT_FD.  The rings then begin with
// what it says.  A back-end may leave requests in flight at GET_VRING_BASE when
// GET_VRING_BASE_INFLIGHT was negotiated; this one has none by then, so the bit changes what a
// successor may find in an area, and that is looked for in any case.
import Linux
import Virtqueue

extension BackEnd {
  private var inflightFormat: InflightFormat { features.contains(.ringPacked) ? .packed : .split }

  func makeInflightArea(_ wanted: InflightDescription) throws(VhostUserError) -> Reply {
    let (queues, entries) = (Int(wanted.queueCount), Int(wanted.queueSize))
    do throws(InflightDefect) {
      try InflightArea.check(queueCount: queues, entryCount: entries, mostQueues: rings.count)
    } catch { throw .inflight(request: "GET_INFLIGHT_FD", error) }
    let size = inflightFormat.areaBytes(queues: queues, entries: entries)
    let file: OwnedDescriptor
    do throws(Errno) {
      file = try OwnedDescriptor.sealedMemory(name: "vhost-user-inflight", length: size)
    } catch { throw .inflight(request: "GET_INFLIGHT_FD", .notMapped(error)) }
    let raw = file.raw
    lentInflightFile = consume file
    var payload: [UInt8] = []
    payload.append(number: UInt64(size))
    payload.append(number: UInt64(0))
    payload.append(number: wanted.queueCount)
    payload.append(number: wanted.queueSize)
    // The padding of a C structure.
    payload.append(number: UInt32(0))
    return .bytes(payload, lending: raw)
  }

  func setInflightArea(
    _ area: InflightDescription, _ files: inout ReceivedDescriptors
  ) throws(VhostUserError) -> Reply {
    guard let file = try take(.sharedMemory, of: &files, request: "SET_INFLIGHT_FD") else {
      throw .wrongDescriptorCount(request: "SET_INFLIGHT_FD", count: 0, expected: "1")
    }
    do throws(InflightDefect) {
      inflight = try InflightArea(
        file: file, offset: area.offset, size: area.size, queueCount: Int(area.queueCount),
        entryCount: Int(area.queueSize), mostQueues: rings.count, format: inflightFormat,
        of: alarm)
    } catch { throw .inflight(request: "SET_INFLIGHT_FD", error) }
    lentInflightFile = nil
    return .acknowledge
  }
}
