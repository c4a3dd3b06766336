// `grant` from outside, where it hands on more than it opens itself.
import Glibc
import Linux
import Testing

@Suite("grant", .enabled(if: NetworkNamespace.isAvailable, "needs root"))
struct GrantTests {
  private struct Outcome {
    var isConnected = false
    var status = 0
    var errors = ""
  }

  /// What becomes of a daemon that is started by grant with a front-end's socket as descriptor `number`.
  private func start(_ number: Int) throws -> Outcome {
    let program = DaemonProcessTests.program
    return try NetworkNamespace.run {
      try run("ip link add dmn0 type veth peer name dmn1")
      var ends: [CInt] = [-1, -1]
      let type = CInt(SOCK_STREAM.rawValue | SOCK_CLOEXEC.rawValue)
      #expect(unsafe socketpair(AF_UNIX, type, 0, &ends) == 0)
      let kept = OwnedDescriptor(adopting: ends[0])
      let given = OwnedDescriptor(adopting: ends[1])
      // A copy without FD_CLOEXEC, out of the way; it closes itself in the shell.
      let copy = OwnedDescriptor(adopting: fcntl(given.raw, F_DUPFD, 100))
      // What other tests have open without FD_CLOEXEC at this moment would take numbers away.
      let script = """
        for file in /proc/self/fd/*; do
          file=${file##*/}
          ((file < 3 || file == \(copy.raw))) || exec {file}<&-
        done
        exec "$0" "$@" \(number)<&\(copy.raw) \(copy.raw)<&-
        """
      let child = try Child([
        "bash", "-c", script, program, "grant", "--user=65534", "--group=65534", "--",
        "--fd=\(number)", "--interface=dmn0", "--dedicated", "--log-level=debug",
      ])
      _ = consume copy
      _ = consume given
      var outcome = Outcome(isConnected: child.waitForError("connected by descriptor \(number)"))
      _ = consume kept
      outcome.status = child.wait()
      outcome.errors = child.errors
      return outcome
    }
  }

  @Test("a front-end's socket that is in the way is refused, and told which number is free")
  func numbers() throws {
    let lowest = try start(3)
    #expect(lowest.status == 1 && !lowest.isConnected)
    let words = lowest.errors.split(separator: " ")
    let at = try #require(words.firstIndex(of: "descriptor"), "\(lowest.errors)")
    let free = try #require(Int(words[at + 1].prefix(while: \.isNumber)), "\(lowest.errors)")
    #expect(free > 3)
    let highest = try start(free - 1)
    #expect(highest.status == 1)
    #expect(highest.errors.contains("descriptor \(free),"))
    let other = try start(free)
    #expect(other.isConnected && other.status == 0, "\(other.errors)")
  }
}
