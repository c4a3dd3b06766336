import Glibc
import Testing

extension SystemTests {
  /// `make soak` in short; docs/reliability.md has the figures of the long form.
  @Suite("soak", .enabled(if: exists(Churn.binary), "build bench-driver"))
  struct Soak {
    @Test("each fault once under mixed load: nothing else is lost, nothing grows")
    func once() throws {
      let log = "/tmp/vhost-user-xdp-soak-\(getpid()).log"
      defer { unsafe unlink(log) }
      let soak = try ChildProcess(
        [
          "env", "BACKEND=\(Daemon.binary)", "BENCH_DRIVER=\(Churn.binary)",
          Wire.root + "/Tests/System/soak.sh", "--once", "--seed=1",
        ], name: "soak", log: log)
      defer { soak.end(within: 15) }
      #expect(try soak.wait(within: 600) == .exited(0), "\(soak.output)")
      #expect(soak.output.contains("faults survived, nothing lost, nothing grew"))
      print(soak.output)
    }
  }
}
