import CLinux
import Glibc
import GuestDriver
import GuestMemory
import Linux
import Testing

@Suite("The log of written pages")
struct DirtyLogTests {
  /// A log in a file, seen as its front-end sees it.
  private final class Shared {
    let file: OwnedDescriptor
    let mapping: Mapping

    init(bytes: Int) throws {
      let raw = try checkedCall { unsafe memfd_create("log", UInt32(MFD_CLOEXEC)) }
      file = OwnedDescriptor(adopting: raw)
      try checkedCall { ftruncate(raw, off_t(bytes)) }
      mapping = try Mapping(length: bytes, descriptor: raw, flags: CInt(MAP_SHARED))
    }

    /// Bits that are set, from byte `offset` on.
    func pages(from offset: Int = 0) -> [Int] {
      (offset..<mapping.length).flatMap { byte in
        let bits = unsafe mapping.base.load(fromByteOffset: byte, as: UInt8.self)
        return (0..<8).filter { bits >> $0 & 1 == 1 }.map { (byte - offset) * 8 + $0 }
      }
    }
  }

  @Test(
    "a page is marked for every byte that was written",
    arguments: [
      (0, 1, [0]), (4095, 1, [0]), (4095, 2, [0, 1]), (4096, 4096, [1]),
      (8191, 8194, [1, 2, 3, 4]),
      (32768, 1, [8]), (5000, 0, []),
    ])
  func pages(address: UInt64, length: Int, expected: [Int]) throws {
    let shared = try Shared(bytes: 4096)
    let log = try DirtyLog(shared.file, offset: 0, size: 4096)
    #expect(log.view.mark(address, length: length) == !expected.isEmpty)
    #expect(shared.pages() == expected)
    #expect(!log.view.mark(address, length: length), "marked already")
  }

  @Test("the log lies where the front-end says, at any offset of its file")
  func offset() throws {
    let shared = try Shared(bytes: 8192)
    let log = try DirtyLog(shared.file, offset: 5000, size: 100)
    log.view.mark(17 * 4096, length: 1)
    #expect(shared.pages(from: 5000) == [17])
    #expect(shared.pages().count == 1)
  }

  @Test("pages beyond the log are counted, and nothing beyond it is touched")
  func beyond() throws {
    let shared = try Shared(bytes: 4096)
    let log = try DirtyLog(shared.file, offset: 0, size: 2)
    log.view.mark(15 * 4096, length: 3 * 4096)
    #expect(shared.pages() == [15])
    #expect(log.missedPages == 2)
    log.view.mark(.max, length: 1)
    log.view.mark(.max - 10, length: 100_000)
    log.view.mark(1 << 60, length: Int(UInt32.max))
    #expect(shared.pages() == [15])
    #expect(log.missedPages > 1_000_000)
  }

  @Test("a log beyond its file, or of no size, is refused")
  func refused() throws {
    let shared = try Shared(bytes: 4096)
    func error(_ offset: UInt64, _ size: UInt64) -> DirtyLogError? {
      do throws(DirtyLogError) {
        _ = try DirtyLog(shared.file, offset: offset, size: size)
        return nil
      } catch { return error }
    }
    #expect(error(0, 4097) == .beyondFile(offset: 0, size: 4097, fileSize: 4096))
    #expect(error(4096, 1) == .beyondFile(offset: 4096, size: 1, fileSize: 4096))
    #expect(error(0, 0) == .addressOverflow(offset: 0, size: 0))
    #expect(error(.max, 2) == .addressOverflow(offset: .max, size: 2))
    #expect(error(4095, 1) == nil)
  }

  @Test("a log must have a bit for the last page of memory")
  func covers() throws {
    let memory = try GuestRAM.withHole(low: 1 << 20, high: 1 << 20).memory()
    let needed = ((1 << 32) + (1 << 20)) / 4096 / 8
    #expect(DirtyLog.size(for: memory) == UInt64(needed))
    let shared = try Shared(bytes: needed)
    let log = try DirtyLog(shared.file, offset: 0, size: UInt64(needed) - 1)
    #expect(throws: DirtyLogError.tooSmall(size: UInt64(needed) - 1, needed: UInt64(needed))) {
      try log.check(covers: memory)
    }
    try DirtyLog(shared.file, offset: 0, size: UInt64(needed)).check(covers: memory)
    #expect(DirtyLog.size(for: try GuestMemory([])) == 0)
  }

  @Test("a log that is cut while it is written to is told")
  func cut() throws {
    let shared = try Shared(bytes: 8192)
    let peer = PeerAlarm()
    let log = try DirtyLog(shared.file, offset: 0, size: 8192, of: peer)
    let raw = shared.file.raw
    try checkedCall { ftruncate(raw, 0) }
    log.view.mark(40000 * 4096, length: 1)
    log.view.mark(0, length: 1)
    #expect(peer.reasons == .memoryLost)
  }

  @Test("no write is lost while the front-end takes the bits away")
  func concurrent() throws {
    let shared = try Shared(bytes: 4096)
    let ram = try GuestRAM(bytes: 1 << 20)
    let memory = try ram.memory()
    let log = try DirtyLog(shared.file, offset: 0, size: 4096)
    let page = unsafe memory.regions[0].base
    let rounds: UInt64 = 50_000
    let address = Int(bitPattern: page)
    let thread = try PinnedThread(name: "writer") {
      let page = unsafe UnsafeMutableRawPointer(bitPattern: address)!
      for i in 1...rounds {
        unsafe shared_store64_relaxed(page, i)
        log.view.mark(0, length: 8)
      }
    }
    // The copy that a migration makes: right after the last bit it must be the last value.
    var copy: UInt64 = 0
    let bits = unsafe shared.mapping.base
    for _ in 0..<rounds where unsafe shared_exchange64(bits, 0) != 0 {
      copy = unsafe shared_load64_relaxed(page)
    }
    thread.join()
    if unsafe shared_exchange64(bits, 0) != 0 { copy = unsafe shared_load64_relaxed(page) }
    #expect(copy == rounds)
  }
}
