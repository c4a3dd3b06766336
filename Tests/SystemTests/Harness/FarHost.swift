// What the host at the far end of the wire does.

extension Wire {
  /// Sends `count` broadcast frames of `size` bytes from the far end, at a steady rate. The
  /// interface's own counter says how many left: there may be others, of the host's own accord.
  func send(count: Int, size: Int, perSecond rate: Int) throws {
    let program = Self.sender(count: count, size: size, perSecond: rate)
    try shell("netns_far python3 - <<'END'\n\(program)\nEND", within: 60)
  }

  /// The Python program that does it.
  ///
  /// A burst is what is due in a millisecond, as a host sleeps no shorter, and what is late by two:
  /// a veth holds 256 frames, and after a pause of a busy machine there would be more.  A frame that the
  /// interface has no room for after all is sent again, so that as many leave as were asked for.
  static func sender(count: Int, size: Int, perSecond rate: Int) -> String {
    """
    import errno, socket, time
    port = socket.socket(socket.AF_PACKET, socket.SOCK_RAW)
    port.bind(('peer0', 0))
    frame = b'\\xff' * 6 + b'\\x02\\0\\0\\0\\0\\x77' + b'\\x88\\xb5'
    frame += bytes(i & 255 for i in range(\(size) - len(frame)))
    def send():
        end = time.monotonic() + 5
        while True:
            try:
                return port.send(frame)
            except OSError as error:
                if error.errno != errno.ENOBUFS or time.monotonic() > end:
                    raise
            time.sleep(0.001)
    due = time.monotonic()
    for number in range(\(count)):
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
      import socket, time
      ports = [socket.socket(socket.AF_INET, socket.SOCK_DGRAM) for _ in range(\(flows))]
      for _ in range(\(perFlow)):
          for port in ports:
              port.sendto(b'flow', ('10.77.0.2', 9))
          time.sleep(0.01)
      """
    try shell("netns_far python3 - <<'END'\n\(program)\nEND", within: 60)
  }

  /// Pings the driver's address, or another one, from the far end.
  ///
  /// - Returns: how many answers came.
  func ping(_ address: String = "10.77.0.2", count: Int) throws -> Int {
    let result = try attempt(
      "netns_far busybox ping -c \(count) -i 0.01 -W 1 \(address)", within: 60)
    guard let end = result.output.firstRange(of: " packets received") else {
      throw HarnessError("no ping: \(result.output)")
    }
    let number = result.output[..<end.lowerBound].reversed().prefix(while: \.isNumber)
    return Int(String(number.reversed()))!
  }
}
