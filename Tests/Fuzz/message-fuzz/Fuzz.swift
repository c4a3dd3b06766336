// Hostile front-ends: whatever comes over the socket, the session keeps its promises and the
// process lives.
//
// An input is a list of writes; each is [descriptors, request, flags, length, payload...] and
// becomes a message, or, with the top bit of the first byte, [.., length, bytes...] as they are.  The
// goals are all requests of the table, carried out, and with a ring running if they may be then.
// Checked besides what the sanitizer sees: no ring is started twice or stopped while it does not
// run, none runs after the end, and every descriptor that was sent is closed.
//
//   FUZZ=1 swift build -c release --scratch-path .build-fuzz --product message-fuzz
//   .build-fuzz/release/message-fuzz -max_total_time=60
import CLinux
import Fuzzing
import Glibc
import GuestMemory
import Linux
import VhostUser
import Virtqueue

/// Requests that are refused, or make no sense, while a ring runs; and one that needs a feature that
/// is never offered.
private let whileStopped: Set = ["SET_DEVICE_STATE_FD", "CHECK_DEVICE_STATE"]
private let never: Set = ["SET_VRING_ENDIAN"]

private let goals = Goals(
  RequestTable.names.filter { name in
    !never.contains(name)
      && (ProtocolFeatures.postcopy.contains(.pagefault) || !name.hasPrefix("POSTCOPY_"))
  })

/// What a message has come to, told from what the session logs.
@safe
private final class Progress: @unchecked Sendable {
  var name: String?
  var wasRunning = false
  /// Memory may be missing: nobody here would serve the fault of one who touches it.
  var isArriving = false

  func message(_ name: String, running: Bool) {
    finish()
    self.name = name
    wasRunning = running
    if name == "POSTCOPY_ADVISE" { isArriving = true }
  }
  func refused() { name = nil }
  func finish() {
    if let name, wasRunning || whileStopped.contains(name) { goals.reach(name) }
    name = nil
  }
}

/// Knows which rings run, and nothing else.
private final class CheckingDevice: Device {
  static let state: [UInt8] = [1, 2, 3]
  let progress = Progress()
  var running: Set<Int> = []
  private var configuration = [UInt8](repeating: 7, count: 256)

  var offeredFeatures: VirtioFeatures {
    [
      .version1, .anyLayout, .mrgRxbuf, .ringEventIdx, .accessPlatform, .ringPacked, .logAll,
    ]
  }
  var queuePairCount: Int { 2 }
  var ringCount: Int { 5 }
  var offeredProtocolFeatures: ProtocolFeatures {
    ProtocolFeatures.offered.union(.config).union(.postcopy)
  }
  var maximumMTU: Int { 1500 }

  func negotiate(_ features: VirtioFeatures) {
    precondition(running.isEmpty, "features change under running rings")
    precondition(offeredFeatures.isSuperset(of: features), "features that were not offered")
  }
  func reset() { precondition(running.isEmpty, "a reset under running rings") }
  func startQueue(_ config: VirtqueueConfig) {
    precondition(running.insert(config.index).inserted, "started twice")
    precondition(config.size > 0 && config.size <= 32768)
    config.call?.signal()
    guard !progress.isArriving else { return }
    _ = unsafe config.memory.ring(at: config.descriptorTable, length: config.size * 16)
    // What a ring does that writes, wherever the log ends.
    config.log?.log.view.mark(config.log?.usedRing?.value ?? 0, length: 4 + 8 * config.size)
    // A ring behind an IOMMU is mapped when it starts.
    if let translation = config.translation {
      for part in config.ringParts {
        let base = unsafe translation.ring.pointer(at: part.address, length: part.size)
        precondition(unsafe base != nil)
        _ = unsafe base!.load(as: UInt8.self)
      }
    }
    // What is in the ring, and in the area of what is in flight, is anything.
    if config.translation == nil { _ = try? AnyVirtqueue(activating: config) }
  }
  func stopQueue(_ index: Int) -> VringBase? {
    precondition(running.remove(index) != nil, "stopped and does not run")
    return index == 0 ? nil : VringBase(split: 65535)
  }
  func readConfiguration(at offset: Int, count: Int) -> [UInt8]? {
    precondition(count <= 256, "more than a message holds")
    guard count > 0, offset <= 256 - count else { return nil }
    return Array(configuration[offset..<offset + count])
  }
  func writeConfiguration(at offset: Int, _ bytes: [UInt8], restoring: Bool) -> Bool {
    guard !bytes.isEmpty, offset <= 256 - bytes.count else { return false }
    configuration.replaceSubrange(offset..<offset + bytes.count, with: bytes)
    return true
  }
  func saveState() -> [UInt8] {
    precondition(running.isEmpty, "saved under running rings")
    return CheckingDevice.state
  }
  func restoreState(_ state: [UInt8]) throws(DeviceStateError) {
    precondition(running.isEmpty, "restored under running rings")
    guard state == CheckingDevice.state else { throw .device("another state") }
  }
  func translate(by table: Translations) {}
  func refuse(_ miss: TranslationMiss) {}
  func announce(_ address: (UInt8, UInt8, UInt8, UInt8, UInt8, UInt8)) {}
}

/// What can be sent beside a message: a file to map, a pipe whose write end says whether all its copies
/// are closed, a pipe that holds a device state, a socket, and an event.
private struct Sent {
  static let kinds = 4
  private let file: CInt
  private let readEnd: CInt
  private let writeEnd: CInt
  private let state: CInt
  private let socket: (own: CInt, lent: CInt)
  private let event: CInt
  /// SET_LOG_FD, SET_VRING_KICK, SET_VRING_CALL and SET_VRING_ERR.
  private static let takeEvents: Set<UInt8> = [7, 12, 13, 14]

  init() {
    file = unsafe memfd_create("fuzz", UInt32(MFD_CLOEXEC))
    event = eventfd(0, CInt(EFD_CLOEXEC))
    var ends: [CInt] = [-1, -1]
    let piped = unsafe pipe(&ends)
    precondition(file >= 0 && event >= 0 && ftruncate(file, 1 << 20) == 0 && piped == 0)
    (readEnd, writeEnd) = (ends[0], ends[1])
    let paired = unsafe socketpair(
      AF_UNIX, CInt(SOCK_STREAM.rawValue | SOCK_CLOEXEC.rawValue), 0, &ends)
    precondition(paired == 0)
    socket = (ends[0], ends[1])
    let filled = unsafe pipe(&ends)
    precondition(filled == 0)
    state = ends[0]
    let bytes = DeviceState(
      queuePairs: 2, features: .version1, device: CheckingDevice.state
    ).bytes
    let written = unsafe write(ends[1], bytes, bytes.count)
    precondition(written == bytes.count)
    close(ends[1])
  }

  /// The one at `place` of those that go with a message: by the numbers of the input, but the first is
  /// mostly an event where one belongs.
  func descriptor(_ place: Int, of request: UInt8, kind: Int) -> CInt {
    place == 0 && kind < 5 && Sent.takeEvents.contains(request) ? event : self[place + kind]
  }

  private subscript(_ kind: Int) -> CInt {
    switch kind % Sent.kinds {
    case 0: file
    case 1: writeEnd
    case 2: state
    default: socket.lent
    }
  }

  /// What the session has asked over the socket.
  func drain() { readAll(socket.own) }

  func closeOwn() {
    for own in [file, state, writeEnd, socket.lent, event] { close(own) }
    readAll(socket.own)
    for (end, name) in [(readEnd, "a descriptor"), (socket.own, "a socket")] {
      // A socket is closed by a thread of its own; what lies in it is no sign of that.
      var poller = pollfd(fd: end, events: 0, revents: 0)
      var ready: CInt = -1
      repeat { ready = unsafe poll(&poller, 1, 9000) } while ready < 0 && errno == EINTR
      precondition(ready == 1 && poller.revents & Int16(POLLHUP) != 0, "\(name) leaks")
      close(end)
    }
  }
}

private func runSession(_ input: [UInt8]) {
  var pair: [CInt] = [-1, -1]
  guard
    unsafe socketpair(AF_UNIX, CInt(SOCK_STREAM.rawValue | SOCK_CLOEXEC.rawValue), 0, &pair) == 0
  else { return }
  let front = OwnedDescriptor(adopting: pair[0])
  let sent = Sent()
  let device = CheckingDevice()
  let progress = device.progress
  do {
    let back = BackEnd(
      device: device, socket: UnixSocket(adopting: OwnedDescriptor(adopting: pair[1])),
      log: { level, line in
        precondition(!line.isEmpty)
        if level == .debug { progress.message(line, running: !device.running.isEmpty) }
        if line.hasPrefix("refused") { progress.refused() }
      })
    var rest = input[...]
    while !back.hasEnded, let write = nextWrite(&rest) {
      let descriptors = (0..<write.descriptors).map {
        sent.descriptor($0, of: write.bytes[0], kind: write.kind)
      }
      let length = write.bytes.count
      _ = unsafe write.bytes.withUnsafeBytes {
        unsafe clinux_send_fds(
          front.raw, $0.baseAddress, length, descriptors, CInt(descriptors.count), 0)
      }
      do throws(VhostUserError) {
        _ = try back.handleReadable()
        progress.finish()
      } catch {
        precondition(error.endsConnection && back.hasEnded && !error.description.isEmpty)
      }
      readAll(front.raw)
      sent.drain()
    }
    back.end()
    precondition(device.running.isEmpty && back.startedRings.isEmpty)
  }
  sent.closeOwn()
}

private struct Write {
  var bytes: [UInt8]
  var descriptors: Int
  /// Which they are.
  var kind: Int
}

private func nextWrite(_ input: inout ArraySlice<UInt8>) -> Write? {
  guard let first = input.popFirst() else { return nil }
  func take(_ count: Int) -> [UInt8] {
    defer { input = input.dropFirst(count) }
    return Array(input.prefix(count))
  }
  let (descriptors, kind) = (Int(first & 0xf) % 9, Int(first >> 4) & 7)
  if first & 0x80 != 0 {
    let bytes = take(Int(input.popFirst() ?? 0))
    return bytes.isEmpty ? nil : Write(bytes: bytes, descriptors: descriptors, kind: kind)
  }
  let head = take(3)
  guard head.count == 3 else { return nil }
  // The longest ones in steps: a memory table of eight regions, a whole configuration space.
  let length = Int(head[2])
  let payload = take(length < 240 ? length : 240 + 4 * (length - 240))
  // Flags: mostly a proper version.
  let flags = UInt32(head[1]) ^ MessageHeader.version
  let header = MessageHeader(request: UInt32(head[0]), flags: flags, size: UInt32(payload.count))
  // A second look at the same bytes, without a session.
  if let header = try? MessageHeader(header.bytes) {
    _ = try? Message(header: header, payload: payload, descriptorCount: descriptors)
  }
  return Write(bytes: header.bytes + payload, descriptors: descriptors, kind: kind)
}

private func readAll(_ socket: CInt) {
  unsafe withUnsafeTemporaryAllocation(byteCount: 65536, alignment: 8) { buffer in
    while unsafe recv(socket, buffer.baseAddress, 65536, CInt(MSG_DONTWAIT)) > 0 {}
  }
}

@main
struct Fuzz {
  static func main() {
    signal(SIGPIPE, SIG_IGN)
    unsafe fuzz(goals) { unsafe runSession(Array($0)) }
  }
}
