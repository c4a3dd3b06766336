import Glibc
import Testing

extension SystemTests {
  @Suite("live migration", .enabled(if: Guest.isFetched, Guest.missing))
  struct LiveMigration {
    struct Way: CustomTestStringConvertible {
      var testDescription: String
      var device = ""
      var isPostcopy = false
      /// The guest says itself where it is; otherwise QEMU has the back-end say it.
      var announcesItself = true
      var comesBack = false

      static let all = [
        Way(testDescription: "split rings, there and back", comesBack: true),
        Way(
          testDescription: "packed rings, announced by the back-end",
          device: ",packed=on,guest_announce=off", announcesItself: false),
        Way(testDescription: "postcopy", isPostcopy: true),
      ]
    }

    @Test("a guest moves between daemons, and a TCP stream goes with it", arguments: Way.all)
    func move(way: Way) throws {
      let wire = try Wire()
      try wire.shell(Self.secondInterface)
      let sockets = [wire.socket, wire.folder + "/sock1"]
      let options = ["--dedicated"] + (way.isPostcopy ? ["--postcopy"] : [])
      let daemons = [
        try wire.startDaemon(interface: ["--interface=nic0"] + options),
        try wire.startDaemon(interface: ["--interface=nic1"] + options, socket: sockets[1]),
      ]
      let hosts = [Host(wire, 0, sockets[0]), Host(wire, 1, sockets[1])]
      defer { for host in hosts { host.stop() } }
      try hosts[0].start(way)
      try hosts[1].start(way, awaiting: true)
      try hosts[0].shell("guest_wait 400; guest_address", within: 500)

      let echo = try wire.start(["python3", "-c", Self.echo], in: .far, name: "echo")
      try echo.waitFor("ready")
      let announcements = try wire.start(
        ["python3", "-c", Self.announcements], in: .far, name: "announcements")
      try announcements.waitFor("ready")
      try hosts[0].shell(
        """
        guest_run 'mkfifo /tmp/pipe
          (nc 10.77.0.1 9000 </tmp/pipe | tee /tmp/pipe | sha256sum >/tmp/sum) >/dev/null 2>&1 &'
        """)
      let ping = try wire.start(
        ["busybox", "ping", "-i", "0.02", "-W", "1", "10.77.0.2"], in: .far, name: "ping")
      try eventually(within: 60, "the guest answers pings", log: ping.log) {
        Self.numbers(ping).max() ?? 0 >= 50
      }

      try hosts[0].migrate(to: hosts[1], postcopy: way.isPostcopy)
      try ping.waitFor("seq=", after: ping.output.utf8.count)
      Self.report(ping, way, "there")
      var place = hosts[1]
      if way.comesBack {
        hosts[0].stop()
        try hosts[0].start(way, awaiting: true)
        try hosts[1].migrate(to: hosts[0], postcopy: false)
        try ping.waitFor("seq=", after: ping.output.utf8.count)
        Self.report(ping, way, "there and back")
        place = hosts[0]
      }

      try echo.type("enough")
      let line = try echo.waitFor("sums:", within: 150).split(separator: "\n")
        .first { $0.hasPrefix("sums:") }
      let sums = line?.split(separator: " ").map(String.init) ?? []
      try #require(sums.count == 5)
      #expect(sums[1] == sums[2], "bytes sent, and echoed by the guest")
      #expect(sums[3] == sums[4], "their SHA-256")
      let inGuest = try place.shell(
        "guest_run 'until [ -s /tmp/sum ]; do usleep 20000; done; cat /tmp/sum'")
      #expect(inGuest.hasPrefix(sums[3]), "what the guest got: \(inGuest)")
      try announcements.waitFor(way.announcesItself ? "ARP" : "RARP")
      #expect(announcements.output.contains("RARP") != way.announcesItself)
      let pings = try place.shell("guest_run '\(Wire.pings("ping", "10.77.0.1", count: 5))'")
      #expect(try Wire.answers(in: pings) == 5)
      for daemon in daemons { #expect(daemon.process.isRunning) }
    }

    @Test("without --postcopy QEMU says that the back-end is not capable of it")
    func postcopyRefused() throws {
      let wire = try Wire()
      let daemon = try wire.startDaemon()
      let host = Host(wire, 0, wire.socket)
      defer { host.stop() }
      try host.start(Way(testDescription: ""), awaiting: true)
      try eventually(within: 60, "QEMU is connected", log: daemon.process.log) {
        try daemon.counter("served", on: "front-ends") > 0
      }
      let answer = try host.shell("guest_ask 'migrate_set_capability postcopy-ram on'")
      #expect(answer.contains("vhost-user backend not capable of postcopy"), "\(answer)")
    }

    /// The pings that were answered so far.
    private static func numbers(_ ping: ChildProcess) -> [Int] {
      ping.output.split(separator: "\n").compactMap { line -> Int? in
        guard let found = line.firstRange(of: "seq=") else { return nil }
        return Int(line[found.upperBound...].prefix(while: \.isNumber))
      }
    }

    /// How many pings were lost so far.
    private static func report(_ ping: ChildProcess, _ way: Way, _ moved: String) {
      let numbers = numbers(ping)
      let sent = (numbers.max() ?? -1) + 1
      let gap = zip(numbers, numbers.dropFirst()).map { $1 - $0 - 1 }.max() ?? 0
      print(
        "live migration, \(way.testDescription), \(moved): \(sent - Set(numbers).count) of \(sent) pings lost, "
          + "\(20 * gap) ms the longest without an answer")
    }

    /// A QEMU, with its daemon's socket.
    private struct Host {
      let wire: Wire
      let folder: String
      let socket: String

      init(_ wire: Wire, _ number: Int, _ socket: String) {
        self.wire = wire
        folder = "\(wire.folder)/host\(number)"
        self.socket = socket
      }

      @discardableResult
      func shell(_ script: String, within seconds: Double = 120) throws -> String {
        try wire.shell(
          "GUEST_DIR='\(folder)'; export SOCKET='\(socket)'\n\(script)", within: seconds)
      }

      func start(_ way: Way, awaiting: Bool = false) throws {
        try shell(
          """
          mkdir -p "$GUEST_DIR"
          export MEMORY=384M DEVICE_OPTIONS='\(way.device)'
          guest_start \(awaiting ? "-incoming 'unix:\(folder)/incoming'" : "")
          \(awaiting ? Host.awaitListener : "")
          """)
      }

      /// QEMU listens when it has the device, and who comes before is refused.
      private static let awaitListener = """
        until grep -q "00010000 .* $GUEST_DIR/incoming\\$" /proc/net/unix; do
          guest_pid >/dev/null || { cat "$GUEST_DIR/qemu.log"; exit 1; }
          sleep 0.05
        done
        """

      func stop() { _ = try? shell("guest_stop") }

      func migrate(to other: Host, postcopy: Bool) throws {
        if postcopy {
          for host in [self, other] {
            try host.shell("guest_monitor 'migrate_set_capability postcopy-ram on'")
          }
        }
        try shell(
          """
          guest_monitor 'migrate_set_parameter max-bandwidth \(postcopy ? "8M" : "200M")'
          guest_monitor 'migrate -d unix:\(other.folder)/incoming'
          \(postcopy ? "sleep 0.1; guest_monitor migrate_start_postcopy" : "")
          for try in {1..300}; do
            sleep 0.3
            state=$(guest_ask 'info migrate')
            [[ $state != *"tatus: failed"* ]] || { echo "$state"; exit 1; }
            [[ $state == *"tatus: completed"* ]] || continue
            [[ $state == *"postcopy request count"* ]] || \(postcopy ? "exit 2" : "true")
            exit 0
          done
          echo "$state"
          exit 1
          """, within: 240)
      }
    }

    /// A second interface, and a bridge at the far end that both lead to.
    private static let secondInterface = """
      ip -n $NETNS_NEAR link add nic1 numtxqueues 1 numrxqueues 1 type veth \
        peer name peer1 netns $NETNS_FAR numtxqueues 1 numrxqueues 1
      netns_far ethtool -K peer1 tx off >/dev/null
      ip -n $NETNS_FAR link add br0 type bridge stp_state 0
      ip -n $NETNS_FAR address flush dev peer0
      for port in peer0 peer1; do ip -n $NETNS_FAR link set $port master br0 up; done
      ip -n $NETNS_FAR address add $LAB_FAR_ADDRESS/$LAB_PREFIX dev br0
      ip -n $NETNS_FAR link set br0 up
      ip -n $NETNS_NEAR link set nic1 up
      """

    /// Sends random bytes, a megabyte a second, until a line comes; then waits for all of them to
    /// have come back.
    private static let echo = """
      import hashlib, os, socket, sys, threading, time
      listener = socket.socket()
      listener.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
      listener.bind(('10.77.0.1', 9000))
      listener.listen(1)
      print('ready', flush=True)
      peer, _ = listener.accept()
      sent, back, counts, enough = hashlib.sha256(), hashlib.sha256(), [0, 0], threading.Event()
      def receive():
          while data := peer.recv(65536):
              back.update(data)
              counts[1] += len(data)
      def wait():
          sys.stdin.readline()
          enough.set()
      for work in receive, wait:
          threading.Thread(target=work, daemon=True).start()
      while not enough.is_set():
          data = os.urandom(10000)
          sent.update(data)
          peer.sendall(data)
          counts[0] += len(data)
          time.sleep(0.01)
      end = time.monotonic() + 120
      while counts[1] < counts[0] and time.monotonic() < end:
          time.sleep(0.05)
      peer.shutdown(socket.SHUT_RDWR)
      print('sums:', *counts, sent.hexdigest(), back.hexdigest(), flush=True)
      """

    /// Prints what announces a guest on either interface: gratuitous ARP, and reverse ARP.
    ///
    /// It takes nothing else, so that the stream does not fill its buffers.
    private static let announcements = """
      import select, socket
      ports = [socket.socket(socket.AF_PACKET, socket.SOCK_RAW, socket.htons(kind))
               for kind in (0x0806, 0x8035)]
      print('ready', flush=True)
      while True:
          for port in select.select(ports, [], [])[0]:
              frame = port.recv(2048)
              if port is ports[1]:
                  print('RARP', frame[6:12].hex(), flush=True)
              elif frame[28:32] == frame[38:42]:
                  print('ARP', frame[6:12].hex(), flush=True)
      """
  }
}
