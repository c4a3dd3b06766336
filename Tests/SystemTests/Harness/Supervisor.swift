// A service manager: starts the daemon anew whenever it has ended, after 100 ms as the unit does.
import Glibc

final class Supervisor {
  let process: ChildProcess

  init(on wire: Wire, _ options: [String]) throws {
    let script = """
      while :; do
        "$@" &
        echo "supervisor: started $!"
        wait $! && status=0 || status=$?
        echo "supervisor: ended with status $status"
        sleep 0.1
      done
      """
    process = try wire.start(
      ["bash", "-c", script, "supervisor", Daemon.binary, "--socket-path=\(wire.socket)"] + options,
      in: .near, name: "supervisor")
  }

  /// Process ids of the daemons so far.
  var started: [pid_t] { numbers(after: "supervisor: started ") }
  /// The statuses with which they ended.
  var ends: [Int32] { numbers(after: "supervisor: ended with status ") }

  private func numbers(after label: String) -> [Int32] {
    process.output.split(separator: "\n").compactMap {
      $0.hasPrefix(label) ? Int32($0.dropFirst(label.count)) : nil
    }
  }
}
