// What a batch costs beside its work: nothing.
import GuestDriver
import GuestMemory
import RuntimeCounters
import Testing
import Virtqueue

@Suite(
  "Runtime cost of a virtqueue",
  .enabled(if: runtime_counters_optimised(), "only in release: swift test -c release"))
struct RuntimeCostTests {
  @inline(never)
  private func drain(
    _ queue: borrowing SplitVirtqueue, _ buffers: borrowing DeviceReadableBuffers,
    _ bytes: UnsafeMutableRawPointer
  ) -> Int {
    let count = queue.availableChains(64)
    var position = queue.position
    for _ in 0..<count {
      switch queue.collect(at: &position, into: buffers) {
      case .chain(let chain):
        unsafe buffers.copy(from: 0, length: buffers.byteCount, to: bytes)
        queue.push(chain, length: 0)
      case .malformed(let chain, _): queue.push(chain, length: 0)
      case .none: return -1
      }
    }
    queue.take(to: position)
    queue.publish()
    return queue.needsCall() && !queue.enableKicks() ? count : -1
  }

  @Test("a batch of 64 chains, good and malformed, costs no retain, release, allocation or check")
  func batch() throws {
    let ram = try GuestRAM()
    let memory = try ram.memory()
    let driver = DriverQueue(in: ram, size: 256, features: Rig.features)
    let queue = try SplitVirtqueue(activating: driver.config(memory: memory))
    let buffers = DeviceReadableBuffers(capacity: 64)
    let bytes = UnsafeMutableRawPointer.allocate(byteCount: 4096, alignment: 64)
    defer { unsafe bytes.deallocate() }
    for i in 0..<64 {
      // Header alone, then two pieces; now and then indirect, now and then the wrong direction.
      var chain = ChainLayout("", [12, 100, 400]).place(in: ram)
      if i % 7 == 0 { chain[2].writable = true }
      driver.add(chain, direct: i % 3 == 0 ? 0 : nil)
    }
    driver.publish()
    runtime_counters_start()
    let count = unsafe drain(queue, buffers, bytes)
    let counts = runtime_counters_stop()
    #expect(count == 64)
    #expect(counts.retains == 0)
    #expect(counts.releases == 0)
    #expect(counts.objects == 0)
    #expect(counts.accesses == 0)
    #expect(counts.mallocs == 0)
  }
}
