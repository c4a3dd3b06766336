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
  @inline(__always)
  private func drain<Queue: Virtqueue & ~Copyable>(
    _ queue: borrowing Queue, _ buffers: borrowing DeviceReadableBuffers,
    _ bytes: UnsafeMutableRawPointer
  ) -> Int {
    let count = queue.availableChains(256)
    var position = queue.position
    var chains = 0
    for _ in 0..<count {
      switch queue.collect(at: &position, into: buffers) {
      case .chain(let chain):
        chains += 1
        unsafe buffers.copy(from: 0, length: buffers.byteCount, to: bytes)
        queue.push(chain, length: 0)
      case .malformed(let chain, _):
        chains += 1
        queue.push(chain, length: 0)
      case .none: break
      }
    }
    queue.take(to: position)
    queue.publish()
    return queue.needsCall() && !queue.enableKicks() ? chains : -1
  }

  @Test(
    "a batch of 64 chains, good and malformed, costs no retain, release, allocation or check",
    arguments: Rig.formats)
  func batch(format: VirtioFeatures) throws {
    let ram = try GuestRAM()
    let memory = try ram.memory()
    let driver = ringDriver(in: ram, size: 256, features: format)
    let queue = try AnyVirtqueue(activating: driver.config(memory: memory))
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
    let count =
      switch queue {
      case .split(let queue): unsafe drain(queue, buffers, bytes)
      case .packed(let queue): unsafe drain(queue, buffers, bytes)
      }
    let counts = runtime_counters_stop()
    #expect(count == 64)
    #expect(counts.retains == 0)
    #expect(counts.releases == 0)
    #expect(counts.objects == 0)
    #expect(counts.accesses == 0)
    #expect(counts.mallocs == 0)
  }
}
