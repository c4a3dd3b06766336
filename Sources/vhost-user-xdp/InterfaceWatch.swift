// What becomes of an interface that is served, and what the operator is to know of it: a pure decision
// over what was read of it.
//
// The daemon cannot open or attach anything any more. So what takes its packets away for good ends it,
// with a line, and its service manager starts it anew; what costs some of them is a warning.
import Linux

struct InterfaceWatch {
  enum Line: Equatable {
    case warning(String)
    case notice(String)
  }

  private let name: String
  /// Of the XDP program that must be attached; nil: it is not known.
  private let program: Int?
  /// With which it was opened.
  private let mtu: Int
  private let queues: Int
  private var lastMTU: Int
  private var lastQueues: Int

  /// - Parameters:
  ///   - program: the kernel's number of the program that steers packets.
  ///   - mtu: the interface's when it was opened.
  ///   - queues: how many of its queues were opened.
  init(name: String, program: Int?, mtu: Int, queues: Int) {
    self.name = name
    self.program = program
    self.mtu = mtu
    self.queues = queues
    lastMTU = mtu
    lastQueues = queues
  }

  /// - Parameter queueEnd: packets can arrive on the queues below it; nil: that is not known.
  /// - Returns: lines for the log, if something has changed.
  /// - Throws: if no packet will ever reach the guest again.
  mutating func look(at state: LinkState, queueEnd: Int?) throws(StartFailure) -> [Line] {
    if let program, !state.programs.contains(program) {
      let others = state.programs.sorted().map(String.init).joined(separator: ", ")
      let fate = others.isEmpty ? "detached by somebody" : "replaced by another one, id \(others)"
      throw StartFailure(
        "the XDP program of \(name) was \(fate), and no packet reaches the guest; start again to "
          + "attach it")
    }
    var lines: [Line] = []
    if state.mtu != lastMTU {
      lastMTU = state.mtu
      let change = "\(name) has MTU \(state.mtu) now and was started with \(mtu)"
      lines.append(
        state.mtu > mtu
          ? .warning("\(change): larger packets do not reach the guest; start again to carry them")
          : .notice(state.mtu == mtu ? "\(name) has MTU \(mtu) again" : change))
    }
    if let queueEnd, max(queueEnd, queues) != lastQueues {
      lastQueues = max(queueEnd, queues)
      lines.append(
        queueEnd > queues
          ? .warning(
            "\(name) has \(queueEnd) queues now, packets on those from \(queues) on do not reach the "
              + "guest; start again to serve them, or go back with `ethtool -L \(name)`")
          : .notice("\(name) has \(queues) queue\(queues == 1 ? "" : "s") again"))
    }
    return lines
  }
}
