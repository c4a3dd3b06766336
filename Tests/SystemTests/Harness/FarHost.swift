// What the host at the far end of the wire does.

extension Wire {
  /// Sends `count` broadcast frames of `size` bytes from the far end, at a steady rate. The
  /// interface's own counter says how many left: there may be others, of the host's own accord.
  func send(count: Int, size: Int, perSecond rate: Int) throws {
    let program = Self.sender(count: count, size: size, perSecond: rate)
    try shell("netns_far python3 - <<'END'\n\(program)\nEND", within: 60)
  }

  /// The Python program that does it.
  static func sender(count: Int, size: Int, perSecond rate: Int) -> String {
    // Bursts of a millisecond: a host sleeps no shorter.
    """
    import socket, time
    port = socket.socket(socket.AF_PACKET, socket.SOCK_RAW)
    port.bind(('peer0', 0))
    frame = b'\\xff' * 6 + b'\\x02\\0\\0\\0\\0\\x77' + b'\\x88\\xb5'
    frame += bytes(i & 255 for i in range(\(size) - len(frame)))
    begin = time.monotonic()
    for number in range(\(count)):
        if number % \(max(1, rate / 1000)) == 0:
            time.sleep(max(0, begin + number / \(rate) - time.monotonic()))
        port.send(frame)
    """
  }

  /// Pings the driver's address from the far end.
  ///
  /// - Returns: how many answers came.
  func ping(count: Int, interval: Double = 0.01) throws -> Int {
    let result = try attempt(
      "netns_far busybox ping -c \(count) -i \(interval) -W 1 $LAB_GUEST_ADDRESS", within: 60)
    guard let end = result.output.firstRange(of: " packets received") else {
      throw HarnessError("no ping: \(result.output)")
    }
    let number = result.output[..<end.lowerBound].reversed().prefix(while: \.isNumber)
    return Int(String(number.reversed()))!
  }

  /// Serves addresses by DHCP at the far end, and nothing to boot.
  func startAddressServer() throws -> ChildProcess {
    try shell(
      """
      cat >$GUEST_DIR/udhcpd.conf <<END
      start 10.77.0.50
      end 10.77.0.60
      interface peer0
      lease_file $GUEST_DIR/leases
      pidfile $GUEST_DIR/udhcpd.pid
      option subnet 255.255.255.0
      END
      touch $GUEST_DIR/leases
      """)
    return try start(
      ["busybox", "udhcpd", "-f", folder + "/udhcpd.conf"], in: .far, name: "udhcpd")
  }
}
