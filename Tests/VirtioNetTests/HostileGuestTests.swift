// A second thread rewrites everything that a guest can write while the paths run over it: what was
// checked is what is used, or one of the pages around guest and frame memory is hit (virtio-net headers
// and descriptors that change between check and use are how devices are broken out of).
import Glibc
import GuestDriver
import GuestMemory
import HostPort
import Linux
import Testing
import VirtioNet
import Virtqueue

/// One direction of a device, which is stopped and started where its ring turns out impossible.
private final class Victim {
  let memory: GuardedMemory
  let port = GuardedQueue()
  let ring: any RingDriver
  let counters = RingCounters()
  private let mark: GuestRAM.Mark
  private let features: VirtioFeatures
  private let transmits: Bool
  /// Nobody but the device writes the used ring.
  private let isUsedRingOurs: Bool
  private(set) var turns = 0
  private(set) var starts = 0
  private(set) var faults = 0
  private(set) var problem: String?

  init(_ features: VirtioFeatures, transmits: Bool, isUsedRingOurs: Bool) throws {
    self.features = features
    self.transmits = transmits
    self.isUsedRingOurs = isUsedRingOurs
    memory = try GuardedMemory(HostileGuest.regions)
    mark = memory.ram.mark
    ring = ringDriver(in: memory.ram, size: HostileGuest.size, features: features)
  }

  /// Packets were moved, and chains refused.
  var hasWorked: Bool {
    let counted = counters.summary
    return turns > 64 && !counted.hasPrefix("packets 0,") && counted.contains("malformed")
  }

  /// Runs until a moment, or until its ring stops.
  func run(_ truce: Truce, until end: UInt64) throws {
    var config: VirtqueueConfig?
    truce.hold {
      // A driver that begins anew at the same place.
      memory.ram.release(to: mark)
      memory.ram.write([UInt8](repeating: 0, count: 8192), at: GuestAddress(0))
      let fresh = ringDriver(in: memory.ram, size: HostileGuest.size, features: features)
      config = fresh.config(index: transmits ? 1 : 0, memory: memory.memory)
    }
    guard let config else { return }
    starts += 1
    do throws(QueueFault) {
      if transmits {
        let path = try TransmitPath(config, port: port, counters: counters)
        turn(until: end, { path.run() }, { (path.queue.base, path.queue.fault) })
      } else {
        let path = try ReceivePath(config, counters: counters)
        let feed = ReceiveFeed(port, counters: counters, filter: ReceiveFilter())
        feed.route(to: path)
        defer { feed.release() }
        turn(until: end, { feed.turn() }, { (path.queue.base, path.queue.fault) })
      }
    } catch { faults += 1 }
  }

  private func turn(
    until end: UInt64, _ run: () -> Int, _ state: () -> (base: VringBase, fault: QueueFault?)
  ) {
    var idle = 0
    while MonotonicClock.nanoseconds < end {
      for _ in 0..<64 {
        // The writer's turn, where CPUs are few.
        idle = run() == 0 ? idle + 1 : 0
        if idle % 32 == 31 { sched_yield() }
        turns += 1
        let (base, fault) = state()
        if fault != nil {
          faults += 1
          return
        }
        check(base)
      }
    }
  }

  /// Between two turns every chain that was taken has been returned.
  private func check(_ base: VringBase) {
    if features.contains(.ringPacked) {
      let (next, used) = (base.rawValue & 0xffff, base.rawValue >> 16)
      if next != used { problem = problem ?? "takes at \(next), returns at \(used)" }
    } else if isUsedRingOurs, let split = ring as? DriverQueue {
      let used = UInt32(split.publishedUsedIndex)
      if base.rawValue != used { problem = problem ?? "took up to \(base), returned up to \(used)" }
    }
  }
}

@Suite("A guest that rewrites what is being read", .serialized)
struct HostileGuestTests {
  /// Of all cases together; HOSTILE_SECONDS asks for another time.
  private static let seconds =
    unsafe getenv("HOSTILE_SECONDS").flatMap { unsafe Double(String(cString: $0)) } ?? 4

  private static let formats: [VirtioFeatures] = [
    [.ringIndirectDesc], [.ringIndirectDesc, .ringEventIdx, .csum, .hostTSO4, .hostUSO],
    [.ringPacked, .ringIndirectDesc],
    [.ringPacked, .ringIndirectDesc, .ringEventIdx, .csum, .hostTSO4, .hostUSO],
  ]

  @Test(
    "costs itself packets and rings, and nothing outside its memory is touched",
    arguments: formats, [true, false])
  func rewriting(format: VirtioFeatures, transmits: Bool) throws {
    let features = format.union([.version1, .mrgRxbuf])
    let share = UInt64(HostileGuestTests.seconds / 16 * 1e9)
    for aimsAtRings in [false, true] {
      let victim = try Victim(features, transmits: transmits, isUsedRingOurs: !aimsAtRings)
      let guest = HostileGuest(
        victim.memory.ram, victim.ring, writes: !transmits, aimsAtRings: aimsAtRings,
        seed: format.rawValue &+ 1)
      let truce = Truce()
      let writer = try PinnedThread(name: "writer") {
        var guest = guest
        while truce.goOn() { for _ in 0..<256 { guest.strike() } }
      }
      // A busy machine may take longer to come to anything.
      var end = MonotonicClock.nanoseconds + share
      let latest = end + 20_000_000_000
      repeat {
        try victim.run(truce, until: end)
        end = victim.hasWorked ? end : min(max(end, MonotonicClock.nanoseconds + share), latest)
      } while MonotonicClock.nanoseconds < end
      truce.end()
      writer.join()
      #expect(victim.problem == nil)
      #expect(victim.port.problems.isEmpty)
      #expect(victim.hasWorked, "\(victim.turns) turns: \(victim.counters.summary)")
    }
  }
}
