// Frames of every size from 60 to 1514 bytes whose bytes are known, between the guest's AF_XDP sockets
// (guest/afxdp.c, which has the same pattern) and the far end.

/// Sizes of which each byte was right, and frames with a wrong one.
struct Comparison: Equatable {
  var equal: Int
  var different: Int
  static let all = Comparison(equal: 1514 - 60 + 1, different: 0)
}

extension Guest {
  /// The guest's AF_XDP socket sends a frame of each size.
  ///
  /// - Returns: what the far end saw, and where in the guest's memory they were, in MiB.
  func sendPatterns(
    _ options: String = ""
  ) throws -> (seen: Comparison, memory: ClosedRange<Int>) {
    let receiver = try wire.start(["python3", "-c", Self.receiver], in: .far, name: "receiver")
    try receiver.waitFor("ready")
    let sent = try run("afxdp send eth0 \(options)")
    let numbers = Self.numbers(in: sent)
    guard numbers.count == 3, numbers[1] <= numbers[2] else { throw HarnessError(sent) }
    guard try receiver.wait(within: 150) == .exited(0) else { throw HarnessError(receiver.output) }
    return (Self.comparison(receiver.output), numbers[1]...numbers[2])
  }

  /// The far end sends a frame of each size to the guest's AF_XDP socket.
  ///
  /// It sends them in portions of half a ring, each when the guest has taken the one before: nothing depends
  /// on when the guest runs.
  ///
  /// - Parameter ring: entries of the receive ring.
  /// - Returns: what the guest saw.
  func receivePatterns(_ options: String = "", ring: Int = 1024) throws -> Comparison {
    try run(
      """
      (afxdp receive eth0 \(options); echo end) >/tmp/afxdp 2>&1 &
      until grep -q -e ready -e end /tmp/afxdp; do usleep 50000; done
      """)
    let sender = try wire.start(
      ["python3", "-c", Self.sender, "\(ring / 2)"], in: .far, name: "sender")
    let taken = "$(cat /sys/class/net/eth0/statistics/rx_packets)"
    var before = ""
    while true {
      // A number that the sender has to wait for is the guest's before that portion.
      before = try run("echo \(taken)").filter(\.isNumber)
      let printed = sender.output.utf8.count
      try sender.type("next")
      let line = try sender.waitFor("sent", after: printed)
      let sent = Self.numbers(in: line).first ?? 0
      if sent == 0 { break }
      try run("until [ \(taken) -ge $((\(before) + \(sent))) ]; do usleep 20000; done")
    }
    let result = try run("until grep -q end /tmp/afxdp; do usleep 50000; done; cat /tmp/afxdp")
    guard result.contains("equal") else { throw HarnessError(result) }
    return Self.comparison(result)
  }

  /// "equal N, different N", in whatever else there is.
  private static func comparison(_ text: String) -> Comparison {
    guard let line = text.split(separator: "\n").last(where: { $0.hasPrefix("equal") }) else {
      return Comparison(equal: 0, different: 0)
    }
    let numbers = numbers(in: String(line))
    return Comparison(equal: numbers[0], different: numbers[1])
  }

  private static func numbers(in text: String) -> [Int] {
    text.split { !$0.isNumber }.compactMap { Int($0) }
  }

  private static let pattern = """
    import socket, time
    port = socket.socket(socket.AF_PACKET, socket.SOCK_RAW, socket.htons(0x88b5))
    port.setsockopt(socket.SOL_SOCKET, 33, 64 << 20)  # SO_RCVBUFFORCE
    port.bind(('peer0', 0x88b5))
    def frame(size):
        body = bytes(i * 31 + size * 7 + (i >> 8) & 255 for i in range(14, size))
        return b'\\xff' * 6 + b'\\x02\\0\\0\\0\\0\\x78\\x88\\xb5' + body

    """

  // A millisecond between two frames: an emulated guest is slow.
  private static let sender =
    pattern + """
      import errno, sys
      def send(size):
          end = time.monotonic() + 30
          while True:
              try:
                  return port.send(frame(size))
              except OSError as error:
                  if error.errno != errno.ENOBUFS or time.monotonic() > end:
                      raise
              time.sleep(0.001)
      sizes = list(range(60, 1515))
      while sys.stdin.readline():
          portion, sizes = sizes[:int(sys.argv[1])], sizes[int(sys.argv[1]):]
          for size in portion:
              send(size)
              time.sleep(0.001)
          print('sent %d' % len(portion), flush=True)
      """

  private static let receiver =
    pattern + """
      port.settimeout(0.2)
      end = time.monotonic() + 120
      seen, different = set(), 0
      print('ready', flush=True)
      while len(seen) < 1455 and time.monotonic() < end:
          try:
              data, address = port.recvfrom(65536)
          except TimeoutError:
              continue
          if address[2] == socket.PACKET_OUTGOING:
              continue
          if 60 <= len(data) <= 1514 and data == frame(len(data)):
              seen.add(len(data))
          else:
              different += 1
      print('equal %d, different %d' % (len(seen), different))
      """
}
