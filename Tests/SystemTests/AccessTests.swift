// Who may connect: the socket file's permissions, and the credentials of who connects, tried by
// processes of other users.
import Glibc
import Testing

extension SystemTests {
  @Suite("who may connect")
  struct Access {
    let wire: Wire
    /// Accounts that nothing on this machine has.
    static let user = 48123
    static let group = 48124

    init() throws {
      wire = try Wire()
      // Whether somebody may connect is to be the socket's business, not the folder's.
      try wire.shell("chmod 0711 '\(wire.folder)'")
    }

    /// What becomes of a front-end.
    enum Outcome: String {
      /// It may not connect.
      case refused
      /// It is connected, and asks in vain.
      case dismissed
      /// It gets an answer.
      case served
    }

    /// A front-end of this user, group and further groups connects and asks for features.
    private func connect(user: Int, group: Int? = nil, groups: [Int] = []) throws -> Outcome {
      let program = """
        import socket, struct
        # Without a limit: a socket with one would not wait for its turn to connect either.
        front = socket.socket(socket.AF_UNIX)
        try:
            front.connect('\(wire.socket)')
        except PermissionError:
            print('refused')
        else:
            try:
                front.send(struct.pack('<III', 1, 1, 0))
                answer = front.recv(20, socket.MSG_WAITALL)
            except (BrokenPipeError, ConnectionResetError):
                answer = b''
            print('served' if len(answer) == 20 else 'dismissed')
        """
      let list =
        groups.isEmpty
        ? "--clear-groups" : "--groups " + groups.map(String.init).joined(separator: ",")
      let command = "setpriv --reuid \(user) --regid \(group ?? user) \(list) /usr/bin/python3 -"
      let output = try wire.shell("\(command) <<'END'\n\(program)\nEND")
      return try #require(Outcome(rawValue: String(output.filter { !$0.isNewline })), "\(output)")
    }

    private func serve(_ options: String...) throws -> Daemon {
      let daemon = try wire.launchDaemon(["--interface=null:"] + options)
      try daemon.process.waitFor("ready")
      return daemon
    }

    @Test("the mode and the group of the socket file decide who connects")
    func permissions() throws {
      let (user, group) = (Self.user, Self.group)
      var daemon = try serve()
      #expect(try connect(user: user) == .refused)
      #expect(try connect(user: user, groups: [group]) == .refused)
      #expect(try connect(user: 0) == .served)
      daemon.process.end()

      daemon = try serve("--socket-mode=0666")
      #expect(try connect(user: user) == .served)
      daemon.process.end()

      daemon = try serve("--socket-group=\(group)")
      #expect(try connect(user: user) == .refused)
      #expect(try connect(user: user, group: group) == .served)
      #expect(try connect(user: user, groups: [group]) == .served)
      daemon.process.end()

      daemon = try serve("--socket-group=\(group)", "--socket-mode=0600")
      #expect(try connect(user: user, groups: [group]) == .refused)
    }

    @Test("with --allow-uid others are hung up on, whatever the mode, and the named are served")
    func credentials() throws {
      let daemon = try serve("--socket-mode=0666", "--allow-uid=\(Self.user)")
      #expect(try connect(user: 0) == .dismissed)
      #expect(try connect(user: Self.user + 1) == .dismissed)
      // The group does not make the user.
      #expect(try connect(user: Self.user + 1, group: Self.user) == .dismissed)
      #expect(try connect(user: Self.user) == .served)
      let line = "of user \(Self.user + 1) is refused: --allow-uid names others only"
      try daemon.process.waitFor(line)
    }

    @Test("--allow-uid counts where the daemon connects, and where it was handed the socket")
    func otherWays() throws {
      // What listens is of the user that the first argument names, what it tells is what came of it.
      let server = """
        import os, socket, sys
        server = socket.socket(socket.AF_UNIX)
        server.bind('\(wire.socket)')
        os.chmod('\(wire.socket)', 0o666)
        server.listen()
        os.setuid(int(sys.argv[1]))
        server.listen()
        print('listening', flush=True)
        peer, _ = server.accept()
        try:
            peer.send(b'\\1\\0\\0\\0\\1\\0\\0\\0\\0\\0\\0\\0')
            print('served' if len(peer.recv(20, socket.MSG_WAITALL)) == 20 else 'dismissed', flush=True)
        except (BrokenPipeError, ConnectionResetError):
            print('dismissed', flush=True)
        """
      for (user, outcome) in [(Self.user, Outcome.served), (Self.user + 1, .dismissed)] {
        try wire.shell("rm -f '\(wire.socket)'")
        let front = try wire.start(
          ["python3", "-c", server, "\(user)"], in: .far, name: "server")
        try front.waitFor("listening")
        let daemon = try wire.launchDaemon([
          "--interface=null:", "--client", "--allow-uid=\(Self.user)",
        ])
        try front.waitFor(outcome.rawValue)
        daemon.process.end()
        front.end()
      }

      let handing = """
        import os, socket, sys
        mine, theirs = socket.socketpair()
        os.set_inheritable(theirs.fileno(), True)
        os.execv(sys.argv[1], sys.argv[1:] + [f'--fd={theirs.fileno()}'])
        """
      let daemon = try wire.start(
        [
          "python3", "-c", handing, Daemon.binary, "--interface=null:",
          "--allow-uid=\(Self.user)",
        ], in: .near, name: "daemon")
      #expect(try daemon.wait() == .exited(1))
      #expect(daemon.output.contains("of user 0 is refused"))
    }
  }
}
