import Glibc
import Linux
import Testing

@Suite("Epoll sets")
struct EpollTests {
  private func ready(_ set: borrowing EpollSet) -> [UInt64: EpollSet.Interest] {
    var events: [UInt64: EpollSet.Interest] = [:]
    set.wait(milliseconds: 0) { events[$0] = $1 }
    return events
  }

  @Test("an event carries the tag it was registered with")
  func tags() throws {
    let set = try EpollSet()
    let a = try EventDescriptor()
    let b = try EventDescriptor()
    try set.add(a.raw, .readable, tag: .max)
    try set.add(b.raw, .readable, tag: 7)
    #expect(ready(set).isEmpty)
    b.signal()
    #expect(ready(set) == [7: .readable])
    a.signal()
    #expect(ready(set) == [7: .readable, .max: .readable])
  }

  @Test("a wait ends after its time, or with an event")
  func times() throws {
    let set = try EpollSet()
    let event = try EventDescriptor()
    try set.add(event.raw, [.readable, .edge], tag: 1)
    let start = MonotonicClock.nanoseconds
    set.wait(nanoseconds: 300_000)
    let waited = MonotonicClock.nanoseconds - start
    // Not as many microseconds; a machine may be busy for a while.
    #expect((300_000...60_000_000_000).contains(waited))
    event.signal()
    set.wait(nanoseconds: nil)
    // By edge, it has been reported.
    #expect(ready(set).isEmpty)
  }

  @Test("an old registration of a re-used descriptor number does not answer for the new one")
  func staleTag() throws {
    let set = try EpollSet()
    // The open file lives on in a duplicate, so closing does not take it out of the set.
    let first = try EventDescriptor()
    let number = try checkedCall { dup(first.raw) }
    try set.add(number, .readable, tag: 1)
    let second = try EventDescriptor()
    #expect(dup2(second.raw, number) == number)
    try set.add(number, .readable, tag: 2)
    first.signal()
    #expect(ready(set) == [1: .readable])
    second.signal()
    #expect(ready(set) == [1: .readable, 2: .readable])
    close(number)
  }

  @Test("a removed descriptor is silent, a modified one is reported again")
  func changes() throws {
    let set = try EpollSet()
    let event = try EventDescriptor()
    event.signal()
    try set.add(event.raw, .none, tag: 1)
    #expect(ready(set).isEmpty)
    try set.modify(event.raw, [.readable, .edge], tag: 2)
    #expect(ready(set) == [2: .readable])
    // Edge: reported once, and again after another signal without any read.
    #expect(ready(set).isEmpty)
    event.signal()
    #expect(ready(set) == [2: .readable])
    set.remove(event.raw)
    event.signal()
    #expect(ready(set).isEmpty)
    #expect(throws: Errno(ENOENT)) { try set.modify(event.raw, .readable, tag: 3) }
    #expect(throws: Errno(EBADF)) { try set.add(-1, .readable, tag: 3) }
  }

  @Test("a hang-up is reported without being asked for")
  func hangUp() throws {
    let set = try EpollSet()
    var ends: [CInt] = [0, 0]
    #expect(unsafe pipe2(&ends, O_CLOEXEC) == 0)
    try set.add(ends[0], .none, tag: 5)
    close(ends[1])
    // A child that another test starts at this moment holds it, too, until it runs.
    var events: [UInt64: EpollSet.Interest] = [:]
    set.wait(milliseconds: 30_000) { events[$0] = $1 }
    #expect(events[5]?.contains(.hangUp) == true)
    close(ends[0])
  }
}
