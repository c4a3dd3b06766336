// One virtqueue as the benchmark's driver uses it: by polling, and with as little work of its own
// as there can be, since what it costs is in every figure.
//
// Every chain is one descriptor, and the back-end has to return chains in order: both back-ends
// that are compared do.  Then a chain's number is its place in the ring, and nothing has to be
// looked up.  `GuestDriver`'s queues are the ones for tests: those allow anything and check all.
import Glibc
import GuestDriver
import GuestMemory

/// Where a ring lies, for the front-end's messages.
struct RingPlace {
  var descriptors: GuestAddress
  /// Avail ring, or driver area.
  var avail: GuestAddress
  /// Used ring, or device area.
  var used: GuestAddress
  /// For SET_VRING_BASE.
  var base: UInt32
}

protocol PollingRing: ~Copyable {
  /// Guest memory that a ring takes.
  static func bytes(size: Int) -> Int

  /// - Parameters:
  ///   - writable: whether the device writes into the buffers.
  ///   - eventIdx: EVENT_IDX was negotiated.
  init(in ram: GuestRAM, size: Int, writable: Bool, eventIdx: Bool)

  var place: RingPlace { get }
  /// Where a device stands that has returned exactly what was taken back, for SET_VRING_BASE.
  var position: UInt32 { get }
  /// Descriptors that the device does not hold.
  var free: Int { get }

  /// Puts a buffer into the next place; there must be one.
  func add(_ address: UInt64, _ length: UInt32)
  /// Makes everything that was added visible.
  func publish()
  /// Whether the device wants to be told of what the last `publish` made visible.
  func wantsKick() -> Bool
  /// Takes the next chain back: the bytes that were written to it, or -1 if there is none.
  func used() -> Int

  /// Whether there is a chain to be taken back.
  var hasUsed: Bool { get }
  /// Asks for a call when `count` more chains, 1 or more, have come back than were taken.  What came
  /// back before this is seen causes no call: look once more before going to sleep.
  func awaitCall(after count: Int)
  /// Asks for no more calls; some may come nonetheless.
  func suppressCalls()
}

/// The back-end does what no driver has to bear, or what this one cannot: there is no use in
/// figures of that.
func giveUp(_ reason: String) -> Never {
  let line = "bench-driver: \(reason)\n"
  _ = unsafe write(STDERR_FILENO, line, line.utf8.count)
  exit(1)
}
