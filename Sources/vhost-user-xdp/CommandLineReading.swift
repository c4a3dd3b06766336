// From arguments to options, or to what is printed instead: a failure is one line, because people
// read it in a journal, and it names the remedy.
import ArgumentParser

/// What the arguments ask for.
enum Command {
  case run(Options)
  /// The word `capabilities` in front.
  case capabilities(CapabilitiesCommand)
  /// The word `grant` in front; the daemon's options, read and as they were given.
  case grant(GrantCommand, Options, [String])
  /// --print-capabilities, --help, --version: text for stdout, status 0.
  case print(String)
  /// One line for stderr; the status is `ExitStatus.usage`.
  case refuse(String)

  init(_ arguments: [String]) {
    // Before anything is parsed: the conventions let a management layer add any other option.
    if arguments.contains("--print-capabilities") {
      self = .print(#"{"type":"net"}"# + "\n")
      return
    }
    // Not a subcommand to the parser: one beside the daemon's options would take their required
    // ones for its own.
    if arguments.first == GrantCommand.name {
      self.init(grant: Array(arguments.dropFirst()))
    } else if arguments.first == CapabilitiesCommand.name {
      self.init(CapabilitiesCommand.self, Array(arguments.dropFirst())) { .capabilities($0) }
    } else {
      self.init(Invocation.self, arguments) { .run($0.options) }
    }
  }

  /// Its own options come before the word `--`, the daemon's behind.
  private init(grant arguments: [String]) {
    let own = Array(arguments.prefix { $0 != "--" })
    let others = Array(arguments.dropFirst(own.count + 1))
    self.init(GrantCommand.self, own) { grant in
      if own.count == arguments.count {
        return .refuse(
          "no daemon to start: give its options behind --, as in grant --user=NAME -- --interface=…"
        )
      }
      let daemon = Command(Invocation.self, others) { .run($0.options) }
      if case .run(let options) = daemon { return .grant(grant, options, others) }
      return daemon
    }
  }

  private init<Parsed: ParsableCommand>(
    _ type: Parsed.Type, _ arguments: [String], _ command: (Parsed) -> Command
  ) {
    do {
      self = command(try type.parse(arguments))
    } catch {
      guard !type.exitCode(for: error).isSuccess else {
        self = .print(type.fullMessage(for: error) + "\n")
        return
      }
      let lines = type.message(for: error).split(whereSeparator: \.isNewline)
      let text = lines.map { $0.trimmingSpaces }.joined(separator: " ")
      self = .refuse(text.contains("--help") ? text : text + " (--help explains every option)")
    }
  }
}

/// Exit statuses.  A service manager must not repeat a command line that can never work, but may
/// well repeat a start that the state of the host refused: hence two.
enum ExitStatus {
  /// The host refused: no such interface, no privilege, already served.
  static let failure: Int32 = 1
  /// The command line itself is wrong; EX_USAGE of sysexits(3).
  static let usage: Int32 = 64
}

/// The options with the head and foot of the manual.
struct Invocation: ParsableCommand {
  static let configuration = CommandConfiguration(
    commandName: "vhost-user-xdp",
    abstract: "A network device for a virtual machine, bridged to a host interface by AF_XDP.",
    discussion: """
      A vhost-user back-end for virtio-net: QEMU (or DPDK's virtio-user) connects to the socket \
      and shares its memory, and the packets of the guest's queues go to and come from AF_XDP \
      sockets on the interface. It stays in the foreground, logs to stderr and ends on SIGTERM \
      or SIGINT with status 0; the interface is as it was before. SIGUSR1 prints the counters.

      A guest on an interface of its own:
        vhost-user-xdp --socket-path=/run/vm1.sock --interface=eth1

      A guest that shares the interface with the host:
        vhost-user-xdp --socket-path=/run/vm1.sock --interface=eth0 \\
          --mac=52:54:00:12:34:56

      What is offered to guests, and what an interface can do, as JSON:
        vhost-user-xdp capabilities --interface=eth1

      As a plain user, with what takes privileges opened by root:
        vhost-user-xdp grant --user=NAME -- \\
          --socket-path=/run/vm1/sock --interface=eth1

      QEMU's side (shared memory is needed):
        -object memory-backend-memfd,id=mem,size=1G,share=on \\
        -machine q35,memory-backend=mem \\
        -chardev socket,id=c0,path=/run/vm1.sock,reconnect=1 \\
        -netdev vhost-user,id=n0,chardev=c0 -device virtio-net-pci,netdev=n0

      It needs the capabilities NET_ADMIN, NET_RAW, BPF and IPC_LOCK to start, unless grant has \
      started it. A socket that a service manager hands in (LISTEN_FDS) takes the place of one of \
      its own at --socket-path. Exit status: 0 after a \
      signal, \(ExitStatus.failure) if the host does not allow it to start, \(ExitStatus.usage) \
      for a wrong command line.
      """,
    version: "vhost-user-xdp \(Options.version)")

  @OptionGroup var options: Options
}

extension Substring {
  fileprivate var trimmingSpaces: String {
    var rest = self.drop(while: \.isWhitespace)
    while rest.last?.isWhitespace == true { rest.removeLast() }
    return String(rest)
  }
}
