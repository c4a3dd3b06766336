// What the host at the far end of the wire does.

extension Wire {
  /// Sends `count` broadcast frames of `size` bytes from the far end, at a steady rate. The
  /// interface's own counter says how many left: there may be others, of the host's own accord.
  func send(count: Int, size: Int, perSecond rate: Int) throws {
    let program = Self.sender(count: count, size: size, perSecond: rate)
    try shell("netns_far python3 - <<'END'\n\(program)\nEND")
  }

  /// The Python program that does it.
  ///
  /// A burst is what is due in a millisecond, as a host sleeps no shorter, and what is late by two:
  /// a veth holds 256 frames, and after a pause of a busy machine there would be more.  A frame that the
  /// interface has no room for after all is sent again, so that as many leave as were asked for.
  static func sender(count: Int, size: Int, perSecond rate: Int) -> String {
    sender(size: size, perSecond: rate) + "\nburst(\(count))"
  }

  /// The Python program that sends as many as each line of its input says, and then says so.
  static func portionedSender(size: Int, perSecond rate: Int) -> String {
    sender(size: size, perSecond: rate) + """

      while line := sys.stdin.readline():
          burst(int(line))
          print('sent', flush=True)
      """
  }

  private static func sender(size: Int, perSecond rate: Int) -> String {
    """
    import errno, socket, sys, time
    port = socket.socket(socket.AF_PACKET, socket.SOCK_RAW)
    port.bind(('peer0', 0))
    frame = b'\\xff' * 6 + b'\\x02\\0\\0\\0\\0\\x77' + b'\\x88\\xb5'
    frame += bytes(i & 255 for i in range(\(size) - len(frame)))
    def send():
        end = time.monotonic() + 30
        while True:
            try:
                return port.send(frame)
            except OSError as error:
                if error.errno != errno.ENOBUFS or time.monotonic() > end:
                    raise
            time.sleep(0.001)
    def burst(count):
        due = time.monotonic()
        for number in range(count):
            if number % \(max(1, rate / 1000)) == 0:
                now = time.monotonic()
                time.sleep(max(0, due - now))
                due = max(due, now - 0.002)
            send()
            due += 1 / \(rate)
    """
  }

  /// Sends UDP from `flows` ports of the far end to the guest, in turns of one datagram each.
  func sendFlows(_ flows: Int, perFlow: Int) throws {
    let program = """
      import errno, socket, time
      ports = [socket.socket(socket.AF_INET, socket.SOCK_DGRAM) for _ in range(\(flows))]
      for port in ports:
          # IP_RECVERR: else a datagram that the interface has no room for is gone without a word.
          port.setsockopt(socket.IPPROTO_IP, 11, 1)
      def send(port):
          end = time.monotonic() + 30
          while True:
              try:
                  return port.sendto(b'flow', ('10.77.0.2', 9))
              except OSError as error:
                  # A guest without a listener says so: that is an answer to one before.
                  if error.errno not in (errno.ENOBUFS, errno.ECONNREFUSED) or time.monotonic() > end:
                      raise
                  if error.errno == errno.ENOBUFS:
                      time.sleep(0.001)
      for _ in range(\(perFlow)):
          for port in ports:
              send(port)
          time.sleep(0.01)
      """
    try shell("netns_far python3 - <<'END'\n\(program)\nEND")
  }

  /// Pings the driver's address, or another one, from the far end.
  ///
  /// - Parameter patience: seconds that each may take.
  /// - Returns: how many answers came until one did not.
  func ping(
    _ address: String = "10.77.0.2", count: Int, size: Int = 56, patience: Int = 10
  ) throws -> Int {
    let script = Self.pings("busybox ping", address, count: count, size: size, patience: patience)
    let output = try shell("netns_far bash -c '\(script)'", within: Double(60 + patience))
    return try Self.answers(in: output)
  }

  /// A script that pings again and again until one is not answered: of several at a time busybox waits for
  /// the last ones no longer than a second.
  static func pings(
    _ command: String, _ address: String, count: Int, size: Int = 56, patience: Int = 10
  ) -> String {
    """
    n=0; while [ $n -lt \(count) ] && \(command) -c 1 -s \(size) -W \(patience) \(address) >/dev/null 2>&1; \
    do n=$((n + 1)); done; echo answers: $n
    """
  }

  /// What such a script has counted.
  static func answers(in output: String) throws -> Int {
    guard let label = output.firstRange(of: "answers: "),
      let answers = Int(output[label.upperBound...].prefix(while: \.isNumber))
    else { throw HarnessError("no ping: \(output)") }
    return answers
  }
}
