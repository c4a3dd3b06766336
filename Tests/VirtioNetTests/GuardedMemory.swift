// Guest memory and frame memory with pages around them that nobody may touch: an access beyond the end
// ends the test process, where it would else hit whatever is mapped there.
import Glibc
import GuestDriver
import GuestMemory
import HostPort
import Linux

/// Guest memory as a device maps it, each region between two pages without access.
@safe
final class GuardedMemory: @unchecked Sendable {
  private static let page = 4096

  let ram: GuestRAM
  let memory: GuestMemory
  /// Addresses of pages.
  private let guards: [UInt]

  init(_ regions: [(guest: UInt64, size: UInt64)]) throws {
    let ram = try GuestRAM(regions)
    var guards: [UInt] = []
    var mapped: [MemoryRegion] = []
    // Those that went elsewhere: they stay until the end, so that the next does not go there too.
    var astray: [MemoryRegion] = []
    while mapped.count < regions.count {
      // The kernel takes the highest gap that is large enough, which is mostly this one.
      let size = Int(regions[mapped.count].size)
      let whole = size + 2 * GuardedMemory.page
      let gap = unsafe mmap(nil, whole, PROT_NONE, CInt(MAP_PRIVATE) | CInt(MAP_ANONYMOUS), -1, 0)!
      unsafe precondition(gap != MAP_FAILED)
      unsafe munmap(gap + GuardedMemory.page, size)
      let region = try ram.region(mapped.count)
      if unsafe region.base == gap + GuardedMemory.page {
        mapped.append(region)
        let first = UInt(bitPattern: gap)
        guards += [first, first + UInt(whole - GuardedMemory.page)]
      } else {
        astray.append(region)
        unsafe munmap(gap, GuardedMemory.page)
        unsafe munmap(gap + whole - GuardedMemory.page, GuardedMemory.page)
        precondition(astray.count < 1000, "no room for a guarded region")
      }
    }
    self.ram = ram
    self.guards = guards
    memory = try GuestMemory(mapped)
  }

  deinit {
    for address in guards {
      unsafe munmap(UnsafeMutableRawPointer(bitPattern: address), GuardedMemory.page)
    }
  }
}

/// A port queue whose frames have known bytes between them and guarded pages around them all, and which
/// looks at what the data path makes of them.  One thread uses it.
@safe
final class GuardedQueue: HostPortQueue, @unchecked Sendable {
  private static let room = 2048
  private static let gap = 64
  private static let stride = room + gap
  private static let receiveFrames = 128
  private static let transmitFrames = FrameBatch.largestCapacity
  private static let count = receiveFrames + transmitFrames
  private static let page = 4096
  private static let size = (count * stride + page - 1) / page * page
  private static let pattern: UInt64 = 0x5a5a_a5a5_c3c3_3c3c

  let index = 0
  let mode = "guarded"
  let descriptor: CInt? = nil
  let isAlwaysReadable = true
  let framesPerPacket = 1
  var statistics: PortStatistics { PortStatistics() }

  private let mapping: UnsafeMutableRawPointer
  private let memory: UnsafeMutableRawPointer
  private var receivePool = (0..<GuardedQueue.receiveFrames).map { UInt32($0) }
  private var transmitPool =
    (GuardedQueue.receiveFrames..<GuardedQueue.count).map { UInt32($0) }
  private var nextLength = 0
  private(set) var transmitted = 0
  private(set) var received = 0
  /// What the data path did wrong, in words; the first of it.
  private(set) var problems: [String] = []

  init() {
    let whole = GuardedQueue.size + 2 * GuardedQueue.page
    unsafe mapping = mmap(
      nil, whole, PROT_NONE, CInt(MAP_PRIVATE) | CInt(MAP_ANONYMOUS), -1, 0)!
    unsafe precondition(mapping != MAP_FAILED)
    unsafe memory = mapping + GuardedQueue.page
    let opened = unsafe mprotect(memory, GuardedQueue.size, PROT_READ | PROT_WRITE)
    precondition(opened == 0)
    for token in 0..<UInt32(GuardedQueue.count) {
      for word in 0..<GuardedQueue.gap / 8 {
        unsafe gap(behind: token).storeBytes(
          of: GuardedQueue.pattern, toByteOffset: 8 * word, as: UInt64.self)
      }
    }
  }

  deinit { unsafe munmap(mapping, GuardedQueue.size + 2 * GuardedQueue.page) }

  private func data(_ token: UInt32) -> UnsafeMutableRawPointer {
    unsafe memory + Int(token) * GuardedQueue.stride
  }
  private func gap(behind token: UInt32) -> UnsafeMutableRawPointer {
    unsafe data(token) + GuardedQueue.room
  }

  private func complain(_ what: String) { if problems.count < 8 { problems.append(what) } }

  private func check(_ token: UInt32, _ range: ClosedRange<UInt32>) -> Bool {
    guard range.contains(token) else {
      complain("frame \(token) is none of these")
      return false
    }
    for word in 0..<GuardedQueue.gap / 8 {
      let found = unsafe gap(behind: token).load(fromByteOffset: 8 * word, as: UInt64.self)
      if found != GuardedQueue.pattern { complain("written behind the end of frame \(token)") }
    }
    return true
  }

  func receive(into batch: borrowing FrameBatch) {
    while !batch.isFull, let token = receivePool.popLast() {
      nextLength = (nextLength + 1) % 7
      let length = [60, 64, 14, 590, 1514, 1024, GuardedQueue.room][nextLength]
      unsafe batch.append(Frame(data: data(token), length: UInt32(length), token: token))
      received += 1
    }
  }

  func recycle(_ batch: borrowing FrameBatch) {
    for i in 0..<batch.count {
      let token = unsafe batch[i].token
      if check(token, 0...UInt32(GuardedQueue.receiveFrames - 1)) { receivePool.append(token) }
    }
    batch.removeAll()
    if receivePool.count > GuardedQueue.receiveFrames { complain("a received frame came twice") }
  }

  func reserve(_ most: Int, into batch: borrowing FrameBatch) {
    for _ in 0..<most {
      guard !batch.isFull, let token = transmitPool.popLast() else { return }
      unsafe batch.append(
        Frame(data: data(token), length: UInt32(GuardedQueue.room), token: token))
    }
  }

  func transmit(_ batch: borrowing FrameBatch, count: Int) {
    if count > batch.count { complain("\(count) frames of \(batch.count)") }
    for i in 0..<batch.count {
      let frame = unsafe batch[i]
      let (token, length) = unsafe (frame.token, Int(frame.length))
      let range = UInt32(GuardedQueue.receiveFrames)...UInt32(GuardedQueue.count - 1)
      guard check(token, range) else { continue }
      transmitPool.append(token)
      guard i < count else { continue }
      let offset = unsafe frame.data - data(token)
      if offset < 0 || length < 14 || offset + length > GuardedQueue.room {
        complain("a frame of \(length) bytes at offset \(offset)")
      }
      if unsafe frame.continues { complain("a packet of several frames") }
      transmitted += 1
    }
    batch.removeAll()
    if transmitPool.count > GuardedQueue.transmitFrames { complain("a frame was sent twice") }
  }

  func flush() -> Bool { false }
}
