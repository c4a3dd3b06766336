import Glibc
import Linux
import RuntimeCounters
import SharedRing
import Testing

private final class Node {
  var next: Node?
  init(next: Node?) { self.next = next }
}

@inline(never)
private func makeNodes(_ count: Int) -> Node? {
  var list: Node?
  for _ in 0..<count { list = Node(next: list) }
  return list
}

@inline(never)
private func link(_ node: Node, to other: Node?) { node.next = other }

/// The call inside may do anything, as far as the optimiser knows: the access has to be checked.
@inline(never)
private func clear(_ other: inout Node?) {
  other = nil
  _ = getppid()
}

@inline(never)
private func clearNext(_ node: Node) { clear(&node.next) }

@inline(never)
private func total(_ state: borrowing HotState<(Int, Int)>, times: Int) -> Int {
  for i in 0..<times { state.value.0 &+= i }
  return state.value.0
}

@Suite("The counters of runtime events")
struct RuntimeCountersTests {
  @Test("a deliberate allocation, retain and release are seen")
  func seen() {
    runtime_counters_start()
    let list = makeNodes(10)
    let counts = runtime_counters_stop()
    #expect(counts.objects >= 10)
    if runtime_counters_count_malloc() { #expect(counts.mallocs >= counts.objects) }

    let holder = Node(next: nil)
    runtime_counters_start()
    for _ in 0..<10 {
      link(holder, to: list)
      link(holder, to: nil)
    }
    let more = runtime_counters_stop()
    #expect(more.retains >= 10)
    #expect(more.releases >= 10)
  }

  @Test("an array's memory is seen as a malloc", .enabled(if: runtime_counters_count_malloc()))
  func arrays() {
    runtime_counters_start()
    let raw = UnsafeMutableRawPointer.allocate(byteCount: 100, alignment: 64)
    let counts = runtime_counters_stop()
    unsafe raw.deallocate()
    #expect(counts.mallocs == 1)
    #expect(counts.objects == 0)
  }

  @Test("the exclusivity check of a class property is seen")
  func accesses() {
    let node = Node(next: nil)
    runtime_counters_start()
    for _ in 0..<10 { clearNext(node) }
    #expect(runtime_counters_stop().accesses >= 10)
  }

  @Test("all threads are counted when asked for")
  func threads() throws {
    runtime_counters_start_all_threads()
    let thread = try PinnedThread(name: "counted") { withExtendedLifetime(makeNodes(1000)) {} }
    thread.join()
    #expect(runtime_counters_stop().objects >= 1000)
  }

  @Test("what happens after the stop is not counted")
  func stops() {
    runtime_counters_start()
    _ = runtime_counters_stop()
    let list = makeNodes(10)
    runtime_counters_start()
    let counts = runtime_counters_stop()
    withExtendedLifetime(list) {}
    #expect(counts.objects == 0)
    #expect(counts.mallocs == 0)
  }

  @Test(
    "hot state is used without retain, release or allocation",
    .enabled(if: runtime_counters_optimised(), "only in release: swift test -c release"))
  func hotState() {
    let state = HotState((0, 0))
    runtime_counters_start()
    let result = total(state, times: 1000)
    let counts = runtime_counters_stop()
    #expect(result == 499_500)
    #expect(counts.retains == 0)
    #expect(counts.releases == 0)
    #expect(counts.objects == 0)
    #expect(counts.accesses == 0)
    #expect(counts.mallocs == 0)
  }
}
