// The unit under systemd itself: a Debian 12 that boots in QEMU, with what `make install` puts there.
//
// A script inside (Tests/System/lab/service/check.py) does and sees everything, and prints a line for
// each check on the console, which is all that is looked at here.  No network, no file and no kernel of
// this machine take part.
import Glibc
import Testing

extension SystemTests {
  @Suite("systemd")
  struct Systemd {
    /// One boot serves all of them.
    private static let checks = [
      "starts as a service that notifies",
      "systemctl status shows what it serves",
      "runs as a user of its own without capabilities, with a filter",
      "the socket is for its user and group only",
      "a guest transmits and receives, and the status line tells of it",
      "the clock of the machine jumps by years, and neither it nor its guest notices",
      "killed, it is started again within a second",
      "stopped by a signal, it is ended by the watchdog and started again",
      "an interface that is deleted ends it, and it comes back with the interface",
      "stopped in order, it ends within two seconds and leaves nothing",
      "a wrong command line is not tried again",
      "a socket unit starts it with the first front-end, and outlives it",
      "grant starts it without a capability, under the same unit",
      "another group may connect if the unit is in it, and else it says what is missing",
    ]

    @Test("the installed unit starts, restarts, is watched, confined and stopped as it says")
    func unit() throws {
      let log = "/tmp/vhost-user-xdp-systemd-\(getpid()).log"
      defer { _ = unsafe unlink(log) }
      let cache = unsafe getenv("VHOST_USER_XDP_CACHE").map { unsafe String(cString: $0) }
      let machine = try ChildProcess(
        [
          Wire.root + "/Tests/System/lab/systemd-root.sh", cache ?? Wire.root + "/.lab", "--boot",
        ], name: "machine", log: log)
      defer { machine.end() }
      // A boot takes 10 s, the checks 30 s, on a machine that does nothing else; it ends by itself.
      let status = try machine.wait(within: 520)
      let lines = machine.output.split(whereSeparator: \.isNewline)
      for check in Systemd.checks {
        let line = lines.first { $0.hasPrefix("check: \(check): ") }
        #expect(line?.hasSuffix(": ok") == true, "\(check): \(line ?? "no word of it")")
      }
      #expect(lines.count { $0.hasPrefix("check: ") } == Systemd.checks.count)
      #expect(lines.contains("checks: end"))
      #expect(status == .exited(0))
      if !lines.contains("checks: end") || lines.contains(where: { $0.contains(": FAILED: ") }) {
        print(tail(of: log, lines: 200))
      }
    }
  }
}
