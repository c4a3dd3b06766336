// The sums over a real interface, beside the kernel's own counters.
import AFXDP
import Glibc
import GuestDriver
import HostPort
import Testing
import Virtqueue

@testable import VirtioNet

extension HostPortQueue {
  /// Sends frames, each of which fits one of the port's, as far as there is room.
  fileprivate func send(_ frames: [[UInt8]]) {
    let batch = FrameBatch()
    reserve(min(frames.count, batch.capacity), into: batch)
    for (i, frame) in frames.prefix(batch.count).enumerated() {
      unsafe frame.withUnsafeBytes {
        unsafe batch[i].data.copyMemory(from: $0.baseAddress!, byteCount: $0.count)
      }
      unsafe batch[i].length = UInt32(frame.count)
    }
    transmit(batch, count: batch.count)
    for _ in 0..<100 where flush() { usleep(50) }
  }

  /// What the kernel has for the queue, and its counters say that it had.
  fileprivate var arrivals: Int {
    ["rx_packets", "rx_waiting", "rx_dropped", "rx_ring_full"].reduce(0) { $0 + counter($1)! }
  }
  fileprivate var departures: Int {
    counter("tx_packets")! - counter("tx_waiting")! - counter("device_refused")!
      - counter("tx_invalid_descs")!
  }
}

@Suite(
  "The counters of an interface add up", .serialized,
  .enabled(if: VethPair.isAvailable, "network namespaces need root"))
struct AccountingOverVethTests {
  /// Runs a guest on one end until `steps` things have happened, and sees to it that the sums close
  /// after each.
  /// - Returns: packets that reached the far end, and the guest.
  private func run(
    _ pair: VethPair, lane: BulkLaneChoice = .off, seed: UInt64, steps: Int,
    disturb: @escaping (Int) throws -> Void = { _ in },
    then: (any HostPortQueue, any HostPortQueue) throws -> Void = { _, _ in }
  ) throws -> (out: Int, in: Int) {
    var options = pair.near
    options.bulkLane = lane
    let near = try XDPPort(options).openQueue(0)
    let far = try pair.farQueue()
    let accounted = try AccountedPair(near, seed: seed)
    accounted.inject = { far.send($0) }
    accounted.disturb = disturb
    var wire = AlikePackets(seed: seed, kinds: WireFlow.Kind.allCases, flowCount: 3)
    var taken: [[UInt8]] = []
    try accounted.restart()
    for number in 0..<steps {
      try accounted.step(&wire)
      while far.take(into: &taken) {}
      let accounts = accounted.accounts
      try #require(
        accounts.complaint == nil,
        "seed \(seed), step \(number): \(accounts.complaint!): \(accounts)")
      try #require(accounted.matches(accounts), "seed \(seed), step \(number): \(accounts)")
    }
    for _ in 0..<2000 where near.flush() || near.counter("tx_waiting")! > 0 { usleep(1000) }
    while far.take(into: &taken) {}
    try then(near, far)
    return (taken.count, accounted.gotSegments)
  }

  @Test("what one end has sent is what came to the other, by the kernel's counters")
  func kernelCounters() throws {
    var moved = (out: 0, in: 0)
    for seed in 0..<4 as Range<UInt64> {
      try VethPair.with { pair in
        let run = try run(pair, seed: seed, steps: 150, disturb: { _ in }) { near, far in
          #expect(eventually { far.arrivals == near.departures }, "\(near.statistics)")
          #expect(eventually { near.arrivals == far.departures }, "\(near.statistics)")
        }
        moved = (moved.out + run.out, moved.in + run.in)
      }
    }
    #expect(moved.out > 200 && moved.in > 200, "\(moved)")
  }

  @Test("while the link goes and comes, at either end")
  func link() throws {
    var (downs, refusals) = (0, 0)
    var moved = (out: 0, in: 0)
    for seed in 0..<4 as Range<UInt64> {
      try VethPair.with { pair in
        let commands = [
          "ip link set blk0 down", "ip link set blk1 down", "ip link set blk0 up",
          "ip link set blk1 up",
        ]
        let run = try run(
          pair, seed: seed, steps: 200, disturb: { try VethPair.run(commands[$0]) }
        ) { near, _ in
          downs += near.counter("link_down")!
          refusals += near.counter("device_refused")!
        }
        moved = (moved.out + run.out, moved.in + run.in)
      }
    }
    #expect(moved.out > 50 && moved.in > 50, "\(moved)")
    #expect(downs > 0 && refusals > 0, "\(downs) with the link down, \(refusals) refused")
  }

  @Test("with large packets that leave uncut, also where the interface is slow or down")
  func bulkLane() throws {
    var large = 0
    for (seed, setting) in [
      "ip link set blk0 up", "tc qdisc add dev blk0 root tbf rate 300mbit burst 70kb limit 200kb",
    ].enumerated() {
      try VethPair.with(segmentsTCP: true, setting) { pair in
        let commands = ["ip link set blk0 down", "ip link set blk0 up"]
        _ = try run(
          pair, lane: .packet, seed: UInt64(seed), steps: 300,
          disturb: { try VethPair.run(commands[$0 == 0 ? 0 : 1]) }
        ) { near, _ in large += near.counter("bulk_packets")! }
      }
    }
    #expect(large > 5, "\(large)")
  }

  @Test("every frame that the device refuses counts once")
  func refused() throws {
    try VethPair.with("ip link set blk1 down") { pair in
      let near = try XDPPort(pair.near).openQueue(0)
      let fixture = try TransmitFixture(on: near)
      for _ in 0..<40 { fixture.offer(frame(60), as: ChainLayout("whole", [72])) }
      _ = fixture.drain()
      #expect(fixture.counters.packets.current == 40)
      #expect(near.counter("tx_packets") == 40 && near.counter("device_refused") == 40)
      #expect(near.departures == 0)
    }
  }
}
