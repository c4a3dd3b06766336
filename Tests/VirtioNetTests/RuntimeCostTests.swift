// What the data path does besides moving packets: nothing.  Numbers of an optimised build only
// (`swift test -c release --filter RuntimeCostTests`).
import GuestDriver
import GuestMemory
import HostPort
import Linux
import Packet
import RuntimeCounters
import Testing
import Virtqueue

@testable import VirtioNet

@Suite("The data path's own costs", .enabled(if: runtime_counters_optimised()))
struct RuntimeCostTests {
  /// A worker with a port, whose turns the test makes itself, and both rings of a pair.
  struct Fixture {
    let worker: Worker
    let receive: any RingDriver
    let transmit: any RingDriver
    let ram: GuestRAM
    let places: [DriverQueue.Buffer]
    let writable: [DriverQueue.Buffer]

    /// - Parameter mode: which frames the guest's driver wants; nil: it has not said.
    init(_ port: any HostPort, _ format: VirtioFeatures, mode: ReceiveMode? = nil) throws {
      let mailbox = try Mailbox<WorkerMessage>()
      worker = try Worker(mailbox: mailbox) { _ in }
      ram = try GuestRAM(bytes: 4 << 20)
      let features = format.union([
        .version1, .mrgRxbuf, .ringEventIdx, .guestCsum, .guestTSO4, .guestUSO4,
      ])
      receive = ringDriver(in: ram, size: 256, features: features)
      transmit = ringDriver(in: ram, size: 256, features: features)
      let memory = try ram.memory()
      let queue = try port.openQueue(0)
      mailbox.post(.adopt(queue, RingCounters(), idleSince: 0))
      for (index, driver) in [receive, transmit].enumerated() {
        mailbox.post(
          .startQueue(
            driver.config(index: index, memory: memory, kick: try EventDescriptor()), queue,
            RingCounters(), try Reply<QueueStart>()))
      }
      mailbox.post(.route(port: 0, ring: 0, try Reply<Bool>()))
      if let mode { mailbox.post(.filter(mode, try Reply<Bool>())) }
      let area = ram.allocate(256 * 2048, alignment: 64)
      places = (0..<32).map { .init(GuestAddress(area.value + UInt64($0 * 2048)), 76) }
      writable = (0..<32).map {
        .init(GuestAddress(area.value + UInt64((64 + $0) * 2048)), 1600, writable: true)
      }
      #expect(worker.readMail())
    }

    /// One batch of 32 for each direction.
    func offer() {
      for buffer in places { transmit.add([buffer]) }
      transmit.publish()
      for buffer in writable { receive.add([buffer]) }
      receive.publish()
    }
  }

  /// Every frame is looked at, and let in.
  private static var filtering: ReceiveMode {
    var mode = ReceiveMode(address: MACAddress("02:00:00:00:00:99")!)
    mode.promiscuous = false
    mode.allMulticast = true
    let wanted = (0..<200).map { MACAddress(bytes: [2, 0, 0, 0, 0, UInt8($0)])! }
    mode.setTables(unicast: wanted, multicast: [])
    mode.filtersAddresses = true
    mode.filtersVLANs = true
    return mode
  }

  @Test(
    "a batch of 32 packets each way retains, releases and allocates nothing",
    arguments: [[], .ringPacked] as [VirtioFeatures], [false, true])
  func nothing(format: VirtioFeatures, filtered: Bool) throws {
    let destination = MACAddress("02:00:00:00:00:05")!
    let fixture = try Fixture(
      try GeneratePort(size: 64, destination: destination), format,
      mode: filtered ? RuntimeCostTests.filtering : nil)
    for round in 0..<20 {
      fixture.offer()
      runtime_counters_start()
      var moved = 0
      for _ in 0..<4 {
        moved += fixture.worker.turn()
        _ = fixture.worker.flush()
      }
      let counts = runtime_counters_stop()
      #expect(moved == 64, "round \(round)")
      #expect(counts.retains == 0)
      #expect(counts.releases == 0)
      #expect(counts.objects == 0)
      #expect(counts.mallocs == 0)
      #expect(counts.accesses == 0)
      #expect(try fixture.transmit.allUsed().count == 32)
      #expect(try fixture.receive.allUsed().count == 32)
    }
  }

  @Test(
    "nor do packets that are merged, nor those that might have been",
    arguments: [[], .ringPacked] as [VirtioFeatures], [SegmentPort.Kind.tcp, .udp])
  func merged(format: VirtioFeatures, kind: SegmentPort.Kind) throws {
    let fixture = try Fixture(SegmentPort(size: 300, kind: kind), format)
    // 64 times 246 bytes of payload behind one header, in buffers of 1600.
    let used = kind == .tcp ? 10 : 64
    for round in 0..<20 {
      while fixture.receive.outstanding < 64 {
        fixture.receive.add([fixture.writable[fixture.receive.outstanding % 32]])
      }
      fixture.receive.publish()
      runtime_counters_start()
      let moved = fixture.worker.turn()
      let counts = runtime_counters_stop()
      #expect(moved == 64, "round \(round)")
      #expect(counts.retains == 0)
      #expect(counts.releases == 0)
      #expect(counts.objects == 0)
      #expect(counts.mallocs == 0)
      #expect(counts.accesses == 0)
      #expect(try fixture.receive.allUsed().count == used)
    }
  }
}
