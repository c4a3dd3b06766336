// Traffic both ways: a driver that sends back what it receives, and a far end that numbers what it
// sends and counts what comes back.
import Glibc
import Testing

/// A steady load from the far end, which goes on whatever happens to the interface.
struct EchoLoad {
  struct Status: CustomStringConvertible {
    var sent = 0
    var back = 0
    /// The highest number that came back.
    var last = 0
    var description: String { "\(sent) sent, \(back) came back, the last was \(last)" }
  }

  private let file: String
  let process: ChildProcess

  init(on wire: Wire, perSecond rate: Int = 2000) throws {
    file = "\(wire.folder)/load-\(wire.processes.count)"
    process = try wire.start(
      ["python3", "-c", EchoLoad.program, file, "\(rate)", "0", "0", "at once"], in: .far,
      name: "load")
  }

  var status: Status {
    let words = contents(of: file).split(separator: " ").compactMap { Int($0) }
    return words.count == 3 ? Status(sent: words[0], back: words[1], last: words[2]) : Status()
  }

  /// Waits until a frame comes back that has not been sent yet.
  /// - Returns: how long that took, in seconds.
  @discardableResult
  func awaitEcho(
    within seconds: Double = 40, _ occasion: String, log: String? = nil
  ) throws -> Double {
    let begin = now()
    // Those that are on their way, and those that are not in the status yet, do not count.
    let sent = status.sent + 20
    try eventually(within: seconds, "traffic flows after \(occasion) (\(status))", log: log) {
      status.last > sent
    }
    return now() - begin
  }

  func end() { process.end() }

  // A port that has gone is opened again; what cannot be sent is not counted.  Where there is no room for
  // a frame for the moment it is sent later: the port has to stay, for what has come waits in it.
  fileprivate static let program = """
    import errno, os, select, socket, struct, sys, time
    name, rate, most, patience = sys.argv[1], int(sys.argv[2]), int(sys.argv[3]), float(sys.argv[4])
    if sys.argv[5] == 'at a word':
        print('prepared', flush=True)
        sys.stdin.readline()
    status = os.open(name, os.O_CREAT | os.O_WRONLY, 0o600)
    sent = back = last = 0
    mark = os.urandom(8)
    head = b'\\xff' * 6 + b'\\x02\\0\\0\\0\\0\\x77' + b'\\x88\\xb6' + mark
    port = None
    begin = heard = time.monotonic()
    due = begin
    written = 0
    while True:
        now = time.monotonic()
        if port is None:
            port = socket.socket(socket.AF_PACKET, socket.SOCK_RAW, socket.htons(0x88b6))
            port.setsockopt(socket.SOL_SOCKET, 33, 64 << 20)  # SO_RCVBUFFORCE
            port.setblocking(False)
            try:
                port.bind(('peer0', 0x88b6))
            except OSError:
                port.close()
                port = None
                time.sleep(0.005)
                due = time.monotonic()
                continue
        try:
            due = max(due, now - 0.02)
            while due <= now and not 0 < most <= sent:
                port.send(head + struct.pack('!Q', sent + 1) + bytes(100))
                sent += 1
                due += 1 / rate
            heard = max(heard, now) if not 0 < most <= sent else heard
            for _ in range(1000):
                data, address = port.recvfrom(2048)
                if address[2] != socket.PACKET_OUTGOING and data[14:22] == mark:
                    back += 1
                    last = max(last, struct.unpack('!Q', data[22:30])[0])
                    heard = time.monotonic()
        except BlockingIOError:
            pass
        except OSError as error:
            if error.errno == errno.ENOBUFS:
                time.sleep(0.001)
            else:
                port.close()
                port = None
        if now - written > 0.005:
            os.pwrite(status, b'%d %d %d ' % (sent, back, last), 0)
            written = now
        if 0 < most <= sent and (back >= most or now - heard > patience):
            print(sent, back, flush=True)
            sys.exit()
        if port is not None:
            select.select([port], [], [], max(0, min(due - time.monotonic(), 0.005)))
    """
}

extension Wire {
  /// Sends numbered frames from the far end.
  /// - Returns: how many of them came back.
  func exchange(_ count: Int, perSecond rate: Int = 2000) throws -> Int {
    let child = try startExchange(count, perSecond: rate)
    guard try child.wait(within: 120) == .exited(0) else { throw HarnessError(child.output) }
    let numbers = child.output.split(whereSeparator: \.isWhitespace).compactMap { Int($0) }
    guard numbers.count == 2, numbers[0] == count else { throw HarnessError(child.output) }
    return numbers[1]
  }

  /// As `exchange`; it ends when all came back, or nothing more has for `patience` seconds.
  /// - Parameter atOnce: otherwise it begins when it is given a line, which costs no time any more.
  func startExchange(
    _ count: Int, perSecond rate: Int, patience: Double = 15, atOnce: Bool = true
  ) throws -> ChildProcess {
    let exchange = try start(
      [
        "python3", "-c", EchoLoad.program, "\(folder)/exchange-\(processes.count)", "\(rate)",
        "\(count)", "\(patience)", atOnce ? "at once" : "at a word",
      ], in: .far, name: "exchange")
    if !atOnce { try exchange.waitFor("prepared") }
    return exchange
  }

  /// Expects all of an exchange back.
  func expectExchange(location: SourceLocation = #_sourceLocation) throws {
    let back = try exchange(500)
    #expect(back == 500, "of 500 frames", sourceLocation: location)
  }

  /// A driver that sends back what it receives, behind the daemon's socket.
  ///
  /// Its rings hold all of an exchange, so that nothing depends on when it runs.
  func startEcho(queues: Int = 1) throws -> Testpmd {
    let driver = try startTestpmd(
      "io", device: "queues=\(queues),queue_size=1024", options: Testpmd.wholeRings(queues: queues))
    try driver.start()
    return driver
  }
}
