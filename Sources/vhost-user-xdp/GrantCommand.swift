// `vhost-user-xdp grant`: starts the daemon as a plain user, who needs no capability at any time.
//
// What takes privileges is opened here, by the same code and after the same checks that a daemon with
// privileges begins with, and crosses as descriptors.  The daemon is executed in this process: it keeps its
// number, its parent and what its service manager knows of it, and nothing is left that has privileges.
import AFXDP
import ArgumentParser
import HostPort
import Linux
import Logging
import Sandbox

/// The command line behind the word `grant`, up to the word `--`.
struct GrantCommand: ParsableCommand {
  static let name = "grant"

  static let configuration = CommandConfiguration(
    commandName: "vhost-user-xdp \(name)",
    abstract: "Opens what takes privileges, and becomes the daemon, as a plain user.",
    usage: "vhost-user-xdp \(name) --user=<user> [--group=<group>] -- <options of the daemon>",
    discussion: """
      Run it as root. The interface is brought up, the XDP program loaded, and the sockets of the \
      interface are opened; then this process gives up all capabilities, becomes the user, and \
      executes the daemon with these descriptors and the options behind --. The user must be allowed \
      to make the socket there, or be handed one (LISTEN_FDS). It takes Linux 5.19. Exit status: as \
      the daemon's.
      """)

  @Option(
    name: .customLong("user"),
    help: ArgumentHelp("The user to become, by name or number; not root.", valueName: "user"))
  var user: Account

  @Option(
    name: .customLong("group"),
    help: ArgumentHelp(
      "The group to become a member of, by name or number; by default the user's own.",
      valueName: "group"))
  var group: Account?

  /// Does not return, unless something fails.
  func run(_ options: Options, _ arguments: [String]) throws(StartFailure) {
    let (user, group) = try account()
    guard case .interface(let name) = options.port else {
      throw StartFailure(
        "\(GrantCommand.name) opens a network interface, and --interface=\(options.port) takes no "
          + "privilege: start the daemon as \(self.user) itself")
    }
    var handed = try starting { try HandedDescriptors.ofThisProcess() }
    handed.append(contentsOf: try GrantCommand.open(name, options))
    let numbers = handed.numbers
    if let descriptor = options.descriptor, numbers.contains(descriptor) {
      throw StartFailure(
        "--fd=\(descriptor) is in the place of what \(GrantCommand.name) hands on: give the "
          + "front-end's socket as descriptor \(numbers.upperBound), or a higher one")
    }
    ProcessSettings.raiseMemoryLockLimit()
    ProcessSettings.raiseOpenFileLimit()
    var userName: String?
    if case .name(let name) = self.user { userName = name }
    try starting {
      try ProcessSettings.become(user: user, group: group, name: userName)
      try Privileges.drop()
    } orSay: {
      "cannot become user \(self.user): \($0); run as root, or give CAP_SETUID and CAP_SETGID"
    }
    let failure: any Error
    do {
      try handed.passOn()
      failure = ProcessSettings.executeAnew([CommandLine.arguments[0]] + arguments)
    } catch {
      failure = error
    }
    throw StartFailure("cannot execute the daemon: \(failure); let \(self.user) execute it")
  }

  private func account() throws(StartFailure) -> (user: UInt32, group: UInt32) {
    let user = try self.user.userID()
    guard user != 0 else {
      throw StartFailure("--user=\(self.user) is root, who is no plain user: name another one")
    }
    if let group { return (user, try group.groupID()) }
    guard let group = Accounts.primaryGroup(ofUser: user) else {
      throw StartFailure("user \(self.user) has no group by the system's accounts: give --group")
    }
    return (user, group)
  }

  private static func open(
    _ name: String, _ options: Options
  ) throws(StartFailure) -> HandedDescriptors {
    let interface = try Interface.named(name)
    let preflight = try Preflight(interface, InterfaceRequest(options))
    if !interface.isUp {
      try HostSide.bringUp(name)
      Logger.standardError(level: options.logLevel).info("\(name) was down and is brought up")
    }
    let request = XDPGrantRequest(
      interface: XDPInterface(name: name, index: UInt32(interface.index)),
      steering: preflight.steering, queueCount: preflight.queueCount,
      packetSockets: options.bulkLane != .off, promiscuous: !options.noPromiscuous,
      busyPolling: options.preferBusyPoll)
    return try starting { try XDPGrant.open(request) }
  }
}
