import Glibc
import Linux
import Testing

@testable import VhostUser

@Suite("Where front-ends come from")
struct ListenerTests {
  private func path(_ name: String) -> String { "/tmp/listener-test.\(getpid()).\(name)" }

  private enum Kind { case connection, nothing, failed, exhausted }

  private func next(_ listener: Listener, _ now: UInt64 = 0) -> Kind {
    switch listener.next(now: now) {
    case .connection: .connection
    case .nothing: .nothing
    case .failed: .failed
    case .exhausted: .exhausted
    }
  }

  @Test("a server has one front-end after the other")
  func server() throws {
    let listener = try Listener(.listen(path: path("server")))
    #expect(listener.descriptor != nil)
    #expect(listener.milliseconds(until: 0) == nil)
    #expect(next(listener, 0) == .nothing)
    for _ in 0..<3 {
      let client = try UnixSocket(connectingTo: path("server"))
      #expect(next(listener, 0) == .connection)
      #expect(client.raw >= 0)
    }
    #expect(next(listener, 0) == .nothing)
  }

  @Test("a client tries for ever, slower up to once a second, and reports a failure once")
  func client() throws {
    let client = try Listener(.connect(path: path("client")))
    #expect(client.descriptor == nil)
    var now: UInt64 = 5000
    #expect(client.milliseconds(until: now) == 0)
    #expect(next(client, now) == .failed)
    var waits: [UInt64] = []
    for _ in 0..<8 {
      let wait = client.milliseconds(until: now)!
      waits.append(wait)
      #expect(next(client, now + wait - 1) == .nothing)
      now += wait
      #expect(next(client, now) == .nothing)
    }
    #expect(waits == [50, 100, 200, 400, 800, 1000, 1000, 1000])

    let front = try UnixSocketListener(path: path("client"))
    now += client.milliseconds(until: now)!
    #expect(next(client, now) == .connection)
    #expect(try front.accept() != nil)
    // It is not asked again at once, and a new failure is reported again.
    #expect(client.milliseconds(until: now) == 1000)
    #expect(client.milliseconds(until: now + 5000) == 0)
    _ = consume front
    #expect(next(client, now + 5000) == .failed)
  }

  @Test("an inherited socket is used once")
  func inherited() throws {
    var ends: [CInt] = [-1, -1]
    try checkedCall {
      unsafe socketpair(AF_UNIX, CInt(SOCK_STREAM.rawValue | SOCK_CLOEXEC.rawValue), 0, &ends)
    }
    let listener = try Listener(.inherited(ends[0]))
    #expect(next(listener, 0) == .connection)
    #expect(next(listener) == .exhausted)
    close(ends[1])
  }

  @Test("what can never work is refused at once")
  func refused() {
    let long = String(repeating: "x", count: 200)
    #expect(throws: UnixSocketError.self) { try Listener(.connect(path: long)) }
    #expect(throws: UnixSocketError.self) { try Listener(.listen(path: long)) }
    #expect(throws: UnixSocketError.self) { try Listener(.inherited(-1)) }
  }
}
