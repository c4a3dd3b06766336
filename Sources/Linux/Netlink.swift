// Questions to the kernel by netlink: its lists of links, addresses and routes (rtnetlink(7)), and
// what generic netlink has beside (DriverFeatures.swift).
//
// Not from /sys/class/net or /proc/net: those show the namespace in which they were mounted or in
// which the process began, and a daemon started by `nsenter` or a service manager may live in
// another.  A netlink socket always speaks for the thread that opened it.
import CLinux
import Glibc

/// One message of a netlink dump, without its header.
struct NetlinkMessage {
  var body: [UInt8]
}

/// Asks the kernel, and waits for the whole answer.
struct NetlinkSocket: ~Copyable {
  private let descriptor: OwnedDescriptor

  /// - Parameter family: the kernel's part that is asked.
  init(_ family: CInt = NETLINK_ROUTE) throws(Errno) {
    descriptor = OwnedDescriptor(
      adopting: try checkedCall {
        socket(AF_NETLINK, CInt(SOCK_RAW.rawValue) | CInt(SOCK_CLOEXEC.rawValue), family)
      })
    // The kernel answers in the call that asks, or has lost the answer.
    var limit = timeval(tv_sec: 2, tv_usec: 0)
    let size = socklen_t(MemoryLayout<timeval>.size)
    let raw = descriptor.raw
    _ = unsafe setsockopt(raw, SOL_SOCKET, SO_RCVTIMEO, &limit, size)
  }

  /// The messages that answer one request.
  func ask(_ request: Int, _ body: [UInt8]) throws(Errno) -> [NetlinkMessage] {
    try send(request, flags: 0, body)
    return try receive { _ in true }
  }

  /// The messages of the table that `request` (RTM_GETLINK, RTM_GETADDR, RTM_GETROUTE) asks for.
  /// - Parameters:
  ///   - namespace: of RTM_GETLINK: another network namespace, by the number that it has in ours.
  ///   - wanted: looks at a body before it is copied: a router's table has a million routes.
  func dump(
    _ request: Int, namespace: Int? = nil, where wanted: (ArraySlice<UInt8>) -> Bool = { _ in true }
  ) throws(Errno) -> [NetlinkMessage] {
    // An all-zero body that fits each of the three requests.
    var body = [UInt8](repeating: 0, count: 16)
    if let namespace { body.appendAttribute(Int(IFLA_TARGET_NETNSID), namespace) }
    try send(request, flags: Int(NLM_F_DUMP), body)
    return try receive(where: wanted)
  }

  /// The number that the network namespace of a descriptor has in ours; nil if it has none.
  func namespaceNumber(of descriptor: CInt) throws(Errno) -> Int? {
    // rtgenmsg: family, and padding.
    var body = [UInt8](repeating: 0, count: 4)
    body.appendAttribute(Int(NETNSA_FD), Int(descriptor))
    let answer = try ask(Int(RTM_GETNSID), body).first?.attributes(after: 4)[Int(NETNSA_NSID)]
    guard let number = answer?.load(0), number != 0xffff_ffff else { return nil }
    return number
  }

  private func send(_ request: Int, flags: Int, _ body: [UInt8]) throws(Errno) {
    // nlmsghdr: length, type, flags, sequence, sender.
    var message = [UInt8](repeating: 0, count: 16)
    message.store(16 + body.count, at: 0, bytes: 4)
    message.store(request, at: 4, bytes: 2)
    message.store(Int(NLM_F_REQUEST) | Int(NLM_F_ACK) | flags, at: 6, bytes: 2)
    message += body
    // What is left of an answer that failed in the middle is none to this.
    var rest: UInt8 = 0
    while unsafe recv(descriptor.raw, &rest, 1, CInt(MSG_DONTWAIT)) > 0 {}
    guard unsafe Glibc.send(descriptor.raw, message, message.count, 0) == message.count else {
      throw Errno.current
    }
  }

  /// All messages of the answer, up to its end mark or acknowledgement.
  private func receive(
    where wanted: (ArraySlice<UInt8>) -> Bool
  ) throws(Errno) -> [NetlinkMessage] {
    var messages: [NetlinkMessage] = []
    // The kernel fills at most 32 KiB per datagram.
    var answer = [UInt8](repeating: 0, count: 1 << 16)
    while true {
      let count = unsafe recv(descriptor.raw, &answer, answer.count, 0)
      if count < 0 {
        if errno == EINTR { continue }
        throw Errno.current
      }
      var failure: Errno?
      var isDone = count == 0
      NetlinkMessage.forEach(in: answer[..<count]) { type, body in
        if type == Int(NLMSG_DONE) {
          isDone = true
        } else if type == Int(NLMSG_ERROR) {
          // nlmsgerr: 0 acknowledges.
          let code = CInt(truncatingIfNeeded: Array(body).load(0))
          if code == 0 { isDone = true } else { failure = Errno(-code) }
        } else if wanted(body) {
          messages.append(NetlinkMessage(body: Array(body)))
        }
      }
      if let failure { throw failure }
      if isDone { return messages }
    }
  }
}

extension NetlinkMessage {
  /// Calls `body` with the type and body of each message in a datagram.
  static func forEach(
    in datagram: ArraySlice<UInt8>, _ body: (_ type: Int, ArraySlice<UInt8>) -> Void
  ) {
    let bytes = Array(datagram)
    var at = 0
    while at + 16 <= bytes.count {
      // nlmsghdr: length, type, flags, sequence, sender.
      let length = bytes.load(at)
      guard length >= 16, at + length <= bytes.count else { return }
      body(bytes.load(at + 4, bytes: 2), bytes[(at + 16)..<(at + length)])
      at += (length + 3) & ~3
    }
  }

  /// The attributes behind the first `header` bytes of the body, by number; of a repeated one the
  /// first.
  func attributes(after header: Int) -> [Int: [UInt8]] {
    NetlinkMessage.attributes(of: body, from: header)
  }

  /// Attributes that are nested in another one's value.
  static func attributes(of bytes: [UInt8], from start: Int = 0) -> [Int: [UInt8]] {
    var found: [Int: [UInt8]] = [:]
    var at = start
    while at + 4 <= bytes.count {
      let length = bytes.load(at, bytes: 2)
      // The two upper bits say "nested" and "network byte order".
      let type = bytes.load(at + 2, bytes: 2) & 0x3fff
      guard length >= 4, at + length <= bytes.count else { break }
      if found[type] == nil { found[type] = Array(bytes[(at + 4)..<(at + length)]) }
      at += (length + 3) & ~3
    }
    return found
  }
}

extension [UInt8] {
  /// The unsigned integer of `bytes` bytes at `offset`, in host (little-endian) order; bytes
  /// beyond the end count as zero.
  func load(_ offset: Int, bytes: Int = 4) -> Int {
    var value = 0
    for i in 0..<bytes where offset + i < count { value |= Int(self[offset + i]) << (8 * i) }
    return value
  }

  mutating func store(_ value: Int, at offset: Int, bytes: Int) {
    for i in 0..<bytes { self[offset + i] = UInt8(truncatingIfNeeded: value >> (8 * i)) }
  }

  /// Appends a netlink attribute with a 32-bit value.
  mutating func appendAttribute(_ type: Int, _ value: Int) {
    var bytes = [UInt8](repeating: 0, count: 4)
    bytes.store(value, at: 0, bytes: 4)
    appendAttribute(type, bytes)
  }

  /// Appends a netlink attribute, and padding for the next.
  mutating func appendAttribute(_ type: Int, _ value: [UInt8]) {
    let start = count
    self += [UInt8](repeating: 0, count: 4)
    store(4 + value.count, at: start, bytes: 2)
    store(type, at: start + 2, bytes: 2)
    self += value + [UInt8](repeating: 0, count: -value.count & 3)
  }

  /// The text before the first NUL.
  var text: String { String(decoding: prefix { $0 != 0 }, as: UTF8.self) }
}
