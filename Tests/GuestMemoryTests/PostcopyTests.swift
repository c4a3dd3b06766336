// The in-process front-end: it reads faults and puts pages in place, as QEMU does.
import CLinux
import Glibc
import GuestDriver
import GuestMemory
import Linux
import Synchronization
import Testing

@Suite(
  "Memory that is still arriving",
  .enabled(if: UserFaults.areSupported, "no userfaultfd for shared memory"))
struct PostcopyTests {
  private final class Ends {
    var own: OwnedDescriptor?
    let other: OwnedDescriptor

    init() throws {
      var pair: [CInt] = [-1, -1]
      try checkedCall {
        unsafe socketpair(
          AF_UNIX, CInt(SOCK_STREAM.rawValue | SOCK_CLOEXEC.rawValue), 0, &pair)
      }
      own = OwnedDescriptor(adopting: pair[0])
      other = OwnedDescriptor(adopting: pair[1])
    }
  }

  /// Reads the first byte of the region on a thread of its own.
  private final class Reader: Sendable {
    let value: Reply<UInt8>
    private let answered = Atomic<Bool>(false)
    var hasAnswered: Bool { answered.load(ordering: .acquiring) }
    init(_ region: MemoryRegion) throws {
      value = try Reply<UInt8>()
      let address = Int(truncatingIfNeeded: region.addressHere)
      let thread = try PinnedThread(name: "reader") { [value, self] in
        let byte = unsafe UnsafeMutableRawPointer(bitPattern: address)!.load(as: UInt8.self)
        answered.store(true, ordering: .releasing)
        value.fulfil(byte)
      }
      _ = consume thread
    }
  }

  /// A region that is watched, and somebody who waits for its first page.
  private final class Arrival {
    let ends: Ends
    let ram: GuestRAM
    let region: MemoryRegion
    let postcopy: Postcopy
    let reader: Reader

    init() throws {
      ends = try Ends()
      ram = try GuestRAM(bytes: 1 << 20)
      region = try ram.region(0)
      postcopy = try Postcopy(frontEnd: ends.other.raw)
      try postcopy.register(region)
      reader = try Reader(region)
      usleep(20_000)
    }
  }

  @Test("who touches a missing page waits until it comes, and then sees it")
  func arrives() throws {
    let arrival = try Arrival()
    let postcopy = arrival.postcopy
    #expect(!arrival.reader.hasAnswered)

    // The fault names our address; the page comes into the file, and who waits is woken.
    let fault = clinux_userfault_read(postcopy.descriptor)
    #expect(fault == arrival.region.addressHere)
    arrival.ram.write([0x5a], at: GuestAddress(0))
    #expect(clinux_userfault_wake(postcopy.descriptor, fault, 4096) == 0)
    #expect(arrival.reader.value.wait() == 0x5a)
    postcopy.finish()
  }

  @Test("after the end a page that never came is zeros")
  func end() throws {
    let arrival = try Arrival()
    arrival.postcopy.finish()
    #expect(arrival.reader.value.wait() == 0)
  }

  @Test("a front-end that dies lets go who waits, and its memory is not written to")
  func hangUp() throws {
    let arrival = try Arrival()
    arrival.ends.own = nil
    #expect(arrival.reader.value.wait() == 0)
    unsafe arrival.region.base.storeBytes(of: 0x77, as: UInt8.self)
    #expect(arrival.ram.read(GuestAddress(0), count: 1) == [0])
    // What it sent before is still read: nobody would let go who waits for more.
    #expect(throws: Errno(EPIPE)) { try arrival.postcopy.register(arrival.ram.region(0)) }
    arrival.postcopy.abandon()
  }

  // In a process of its own, whose limit leaves no room: so it is where memory must not be
  // overcommitted.
  @Test("who waits is let go also where there is no room for the zeros")
  func noRoom() async {
    await #expect(processExitsWith: .success) {
      let arrival = try Arrival()
      let reader = arrival.reader
      guard !reader.hasAnswered else { exit(2) }
      var limit = rlimit()
      unsafe getrlimit(__rlimit_resource_t(RLIMIT_AS.rawValue), &limit)
      let former = limit
      limit.rlim_cur = 4096
      unsafe setrlimit(__rlimit_resource_t(RLIMIT_AS.rawValue), &limit)
      arrival.postcopy.abandon()
      limit = former
      unsafe setrlimit(__rlimit_resource_t(RLIMIT_AS.rawValue), &limit)
      for _ in 0..<30_000 where !reader.hasAnswered { usleep(1000) }
      guard reader.hasAnswered, reader.value.wait() == 0 else { exit(3) }
      withExtendedLifetime(arrival) {}
    }
  }

  @Test("pages that do not come while the control thread is kept are given up, and it is told")
  func pagesMissing() throws {
    for patience in [100, 1000, 5000] as [UInt64] {
      let ends = try Ends()
      let ram = try GuestRAM(bytes: 1 << 20)
      let region = try ram.region(0)
      let peer = PeerAlarm()
      let postcopy = try Postcopy(frontEnd: ends.other.raw, of: peer, patience: patience)
      try postcopy.register(region)
      let start = MonotonicClock.milliseconds
      postcopy.controlThread(isBusy: true)
      postcopy.controlThread(isBusy: false)
      // A machine that held us up just there has kept the control thread.
      if MonotonicClock.milliseconds - start >= patience { continue }
      let reader = try Reader(region)
      ThreadTime.sleep(milliseconds: 3 * Int(patience))
      #expect(!reader.hasAnswered, "nobody is kept but who touched it")
      #expect(peer.reasons == [])
      postcopy.controlThread(isBusy: true)
      #expect(reader.value.wait() == 0)
      for _ in 0..<30_000 where peer.reasons == [] { usleep(1000) }
      #expect(peer.reasons == .pagesMissing)
      withExtendedLifetime(ends) {}
      return
    }
    Issue.record("the control thread was kept each time")
  }
}
