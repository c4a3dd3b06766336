// Packets by the million, through driver, virtqueue, port and back, each looked at byte by byte: what
// goes wrong once in a lap of an index, or of a lap of laps, shows here and in no short test.
//
// Driver and worker take turns on one thread, so that the time goes into packets.
import ArgumentParser
import Glibc
import GuestDriver
import GuestMemory
import HostPort
import Linux
import Testing
import VirtioNet
import Virtqueue

@testable import bench_driver

@Suite("Packets by the million")
struct VolumeTests {
  /// Of both ring formats together; PACKETS asks for another number: 1000000000 in a release build.
  private static let packets =
    unsafe getenv("PACKETS").flatMap { unsafe UInt64(String(cString: $0)) } ?? 200_000

  @Test("every one comes back, in order and byte by byte", arguments: [false, true])
  func volume(packed: Bool) throws {
    let start = MonotonicClock.nanoseconds
    let packets = VolumeTests.packets / 2
    let received =
      packed
      ? try run(PackedPollingRing.self, [.ringPacked], packets)
      : try run(SplitPollingRing.self, [], packets)
    #expect(received == packets)
    let seconds = Double(MonotonicClock.nanoseconds - start) / 1e9
    print("volume: \(packed ? "packed" : "split"): \(received) packets in \(seconds) s")
  }

  /// - Returns: how many came back before one was lost, or another one than was sent.
  private func run<Ring: PollingRing & ~Copyable>(
    _: Ring.Type, _ format: VirtioFeatures, _ packets: UInt64
  ) throws -> UInt64 {
    let options = try DeviceOptions.parse(["--socket=none", "--size=64"])
    let ram = try GuestRAM(bytes: 64 << 20)
    var generator = SeededGenerator(seed: 1)
    let pair = try QueuePair<Ring>(0, in: ram, options, eventIdx: false, generator: &generator)
    let features = format.union([.version1, .mrgRxbuf])
    let memory = try ram.memory()
    func config(_ index: Int, _ place: RingPlace) -> VirtqueueConfig {
      VirtqueueConfig(
        index: index, size: options.backEnd.queueSize,
        descriptorTable: ram.frontEnd(of: place.descriptors),
        availRing: ram.frontEnd(of: place.avail), usedRing: ram.frontEnd(of: place.used),
        base: VringBase(rawValue: place.base), features: features, memory: memory)
    }
    let mailbox = try Mailbox<WorkerMessage>()
    let worker = try Worker(mailbox: mailbox) { Issue.record("\($0)") }
    let queue = try ReflectPort(queueCount: 1).openQueue(0)
    mailbox.post(.adopt(queue, RingCounters(), idleSince: 0))
    for (index, place) in [pair.receive.place, pair.transmit.place].enumerated() {
      mailbox.post(
        .startQueue(config(index, place), queue, RingCounters(), try Reply<QueueStart>()))
    }
    mailbox.post(.route(port: 0, ring: 0, try Reply<Bool>()))
    _ = worker.readMail()
    while pair.receive.free > 0 { pair.replenish() }

    var (sent, received) = (UInt64(0), UInt64(0))
    var idleTurns = 0
    while received < packets {
      let room = min(UInt64(min(pair.transmit.free, 64)), packets - sent)
      for _ in 0..<room {
        pair.prepare(sent)
        sent += 1
      }
      if room > 0 { pair.send() }
      _ = worker.turn()
      _ = worker.flush()
      _ = pair.reap()
      let before = received
      while true {
        let length = pair.receive.used()
        guard length >= 0 else { break }
        // Ends the process where a byte is another one.
        guard pair.read(length) == received else { return received }
        pair.replenish()
        received += 1
      }
      idleTurns = received == before ? idleTurns + 1 : 0
      if idleTurns > 1000 { return received }
    }
    return received
  }
}
