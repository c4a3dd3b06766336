// A worker that cannot be reached, as one that waits for a page of a guest that is still arriving.
import Glibc
import GuestMemory
import HostPort
import Linux
import Synchronization
import Testing
import VirtioNet

@Suite("A worker that is held")
struct HeldWorkerTests {
  /// A port with a queue that holds whoever reserves a frame, and has none.
  private struct Port: HostPort {
    let name = "held"
    let capabilities = PortCapabilities(queueCount: 1, mtu: 1500, frameSize: 2048)
    let queue = Queue()
    func openQueue(_ index: Int) throws(PortError) -> any HostPortQueue { queue }
  }

  private final class Queue: HostPortQueue {
    private let isOpenNow = Atomic<Bool>(false)
    private let reservations = Atomic<Int>(0)
    var isOpen: Bool { isOpenNow.load(ordering: .relaxed) }
    var isHolding: Bool { reservations.load(ordering: .relaxed) > 0 && !isOpen }
    func open() { isOpenNow.store(true, ordering: .relaxed) }

    let index = 0
    let mode = "held"
    let descriptor: CInt? = nil
    let isAlwaysReadable = false
    let framesPerPacket = 1
    func receive(into batch: borrowing FrameBatch) {}
    func recycle(_ batch: borrowing FrameBatch) { batch.removeAll() }
    func reserve(_ most: Int, into batch: borrowing FrameBatch) {
      reservations.add(1, ordering: .relaxed)
      while !isOpen { usleep(1000) }
    }
    func transmit(_ batch: borrowing FrameBatch, count: Int) { batch.removeAll() }
    func flush() -> Bool { false }
    let statistics = PortStatistics()
  }

  private let queue: Queue
  private let device: NetDevice

  /// Whose worker is held.
  init() throws {
    let port = Port()
    queue = port.queue
    device = try NetDevice(port: port, queuePairs: 1, cpus: []) { _ in }
    device.announce((2, 0, 0, 0, 0, 9))
    let isHeld = eventually { [queue] in queue.isHolding }
    try #require(isHeld)
  }

  @Test("announcements do not pile up before it, nor wait for it; later ones are made again")
  func announcements() {
    defer { device.stop() }
    for _ in 0..<1000 { device.announce((2, 0, 0, 0, 0, 9)) }
    queue.open()
    // Answered when everything before it is done.
    #expect(device.settledReport.hasSuffix("dropped_announcements 1"))
    device.announce((2, 0, 0, 0, 0, 9))
    #expect(device.settledReport.hasSuffix("dropped_announcements 2"))
  }

  @Test("a refused translation waits for it, so those do not pile up either")
  func refusals() throws {
    defer { device.stop() }
    let queue = queue
    let opener = try PinnedThread(name: "opener") {
      usleep(50_000)
      queue.open()
    }
    device.refuse(TranslationMiss(address: IOVirtualAddress(0), access: .read))
    #expect(queue.isOpen)
    opener.join()
  }
}
