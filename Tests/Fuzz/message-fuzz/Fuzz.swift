// Hostile front-ends: whatever comes over the socket, the session keeps its promises and the
// process lives.
//
// An input is a list of writes; each is [descriptors, request, flags, length, payload...] and
// becomes a message, or, with the top bit of the first byte, [.., length, bytes...] as they are.
// Checked besides what the sanitizer sees: no ring is started twice or stopped while it does not
// run, none runs after the end, and every descriptor that was sent is closed.
//
//   FUZZ=1 swift build -c release --scratch-path .build-fuzz --product message-fuzz
//   .build-fuzz/release/message-fuzz -max_total_time=60
import CLinux
import Glibc
import GuestMemory
import Linux
import VhostUser
import Virtqueue

@_silgen_name("LLVMFuzzerRunDriver")
private func LLVMFuzzerRunDriver(
  _ count: UnsafeMutablePointer<CInt>,
  _ arguments: UnsafeMutablePointer<UnsafeMutablePointer<UnsafeMutablePointer<CChar>?>>,
  _ body: @convention(c) (UnsafePointer<UInt8>, Int) -> CInt
) -> CInt

@main
struct Fuzz {
  static func main() {
    signal(SIGPIPE, SIG_IGN)
    var count = CommandLine.argc
    var arguments = unsafe CommandLine.unsafeArgv
    _ = unsafe LLVMFuzzerRunDriver(&count, &arguments) { data, size in
      unsafe runSession(Array(UnsafeBufferPointer(start: data, count: size)))
      return 0
    }
  }
}

/// Knows which rings run, and nothing else.
private final class CheckingDevice: Device {
  var running: Set<Int> = []

  var offeredFeatures: VirtioFeatures {
    [
      .version1, .anyLayout, .mrgRxbuf, .ringEventIdx, .accessPlatform, .ringPacked, .logAll,
    ]
  }
  var queuePairCount: Int { 2 }
  var maximumMTU: Int { 1500 }

  func negotiate(_ features: VirtioFeatures) {
    precondition(running.isEmpty, "features change under running rings")
    precondition(offeredFeatures.isSuperset(of: features), "features that were not offered")
  }
  func startQueue(_ config: VirtqueueConfig) {
    precondition(running.insert(config.index).inserted, "started twice")
    precondition(config.size > 0 && config.size <= 32768)
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
    config.call?.signal()
  }
  func stopQueue(_ index: Int) -> VringBase? {
    precondition(running.remove(index) != nil, "stopped and does not run")
    return index == 0 ? nil : VringBase(split: 65535)
  }
  func translate(by table: Translations) {}
  func refuse(_ miss: TranslationMiss) {}
  func announce(_ address: (UInt8, UInt8, UInt8, UInt8, UInt8, UInt8)) {}
}

/// A file to map, an event, and a pipe whose write end says whether all its copies are closed.
private struct Sent {
  let file: CInt
  let event: CInt
  let readEnd: CInt
  let writeEnd: CInt

  init() {
    file = unsafe memfd_create("fuzz", UInt32(MFD_CLOEXEC))
    event = eventfd(0, CInt(EFD_CLOEXEC))
    var ends: [CInt] = [-1, -1]
    let piped = unsafe pipe(&ends)
    precondition(file >= 0 && event >= 0 && ftruncate(file, 1 << 20) == 0 && piped == 0)
    readEnd = ends[0]
    writeEnd = ends[1]
  }

  func closeOwn() {
    close(file)
    close(event)
    close(writeEnd)
    var poller = pollfd(fd: readEnd, events: Int16(POLLIN), revents: 0)
    let ready = unsafe poll(&poller, 1, 0)
    precondition(ready == 1 && poller.revents & Int16(POLLHUP) != 0, "a descriptor leaks")
    close(readEnd)
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
  do {
    let back = BackEnd(
      device: device, socket: UnixSocket(adopting: OwnedDescriptor(adopting: pair[1])),
      log: { _, line in precondition(!line.isEmpty) })
    var rest = input[...]
    while !back.hasEnded, let write = nextWrite(&rest) {
      // SET_LOG_FD, SET_VRING_KICK, CALL and ERR take an eventfd.
      let first = [7, 12, 13, 14].contains(write.bytes[0]) ? sent.event : sent.file
      let descriptors = (0..<write.descriptors).map { $0 % 2 == 0 ? first : sent.writeEnd }
      let length = write.bytes.count
      _ = unsafe write.bytes.withUnsafeBytes {
        unsafe clinux_send_fds(
          front.raw, $0.baseAddress, length, descriptors, CInt(descriptors.count), 0)
      }
      do throws(VhostUserError) { _ = try back.handleReadable() } catch {
        precondition(error.endsConnection && back.hasEnded && !error.description.isEmpty)
      }
      readReplies(front.raw)
    }
    back.end()
    precondition(device.running.isEmpty && back.startedRings.isEmpty)
  }
  sent.closeOwn()
}

private func nextWrite(_ input: inout ArraySlice<UInt8>) -> (bytes: [UInt8], descriptors: Int)? {
  guard let first = input.popFirst() else { return nil }
  func take(_ count: Int) -> [UInt8] {
    defer { input = input.dropFirst(count) }
    return Array(input.prefix(count))
  }
  if first & 0x80 != 0 {
    let bytes = take(Int(input.popFirst() ?? 0))
    return bytes.isEmpty ? nil : (bytes, Int(first & 0x7f) % 9)
  }
  let head = take(3)
  guard head.count == 3 else { return nil }
  let payload = take(Int(head[2]))
  // Flags: mostly a proper version.
  let flags = UInt32(head[1]) ^ MessageHeader.version
  let header = MessageHeader(request: UInt32(head[0]), flags: flags, size: UInt32(payload.count))
  // A second look at the same bytes, without a session.
  if let header = try? MessageHeader(header.bytes) {
    _ = try? Message(header: header, payload: payload, descriptorCount: Int(first) % 9)
  }
  return (header.bytes + payload, Int(first) % 9)
}

private func readReplies(_ socket: CInt) {
  unsafe withUnsafeTemporaryAllocation(byteCount: 65536, alignment: 8) { buffer in
    while unsafe recv(socket, buffer.baseAddress, 65536, CInt(MSG_DONTWAIT)) > 0 {}
  }
}
