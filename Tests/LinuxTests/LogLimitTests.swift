import Linux
import Testing

@Suite("The limit of log lines")
struct LogLimitTests {
  @Test("a burst is let through, then a line a second, which tells how many were left out")
  func limit() {
    let limit = LogLimit()
    for _ in 0..<LogLimit.burst { #expect(limit.admit(now: 5000) == 0) }
    for _ in 0..<10 { #expect(limit.admit(now: 5000) == nil) }
    #expect(limit.admit(now: 5999) == nil)
    #expect(limit.admit(now: 6000) == 11)
    #expect(limit.admit(now: 6000) == nil)
  }

  @Test("after a rest there is a whole burst again, and not more")
  func rest() {
    let limit = LogLimit()
    while limit.admit(now: 0) != nil {}
    let lines = (0..<1000).count { _ in limit.admit(now: 1 << 40) != nil }
    #expect(lines == LogLimit.burst)
  }
}
