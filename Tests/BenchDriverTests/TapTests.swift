import ArgumentParser
import CLinux
import Glibc
import Linux
import SharedRing
import Testing
import Virtqueue

@testable import bench_driver

@Suite("The tap behind the driver")
struct TapTests {
  private static let isAvailable = unsafe access("/dev/net/tun", R_OK) == 0 && geteuid() == 0
  /// An experimental type, and that of IPv4.
  private static let experimental: UInt16 = 0x88b5
  private static let ip: UInt16 = 0x0800

  @Test(
    "every frame that is sent through the interface comes back, in pieces too",
    .enabled(if: isAvailable, "needs root and /dev/net/tun"),
    arguments: [
      [], ["--no-event-idx"], ["--packed"], ["--packed", "--no-event-idx"],
      ["--queue-size=4"], ["--receive-room=512", "--queue-size=8"],
      ["--packed", "--receive-room=300", "--queue-size=16"], ["--without=mrg-rxbuf,csum"],
      ["--spin-us=200", "--napi"],
    ])
  func reflection(arguments: [String]) throws {
    try withTap(arguments, protocol: Self.experimental) { socket in
      var sent = 0
      var back = 0
      while back < 2000 {
        // No more under way than the receive buffers of the smallest ring hold.
        while sent < 2000, sent - back < 2 {
          try send(socket, frame(number: sent))
          sent += 1
        }
        let received = try receive(socket)
        try #require(received == frame(number: back), "frame \(back), \(received.count) bytes")
        back += 1
      }
    } check: { counts in
      #expect(counts.contains(#""refused": 0"#), "\(counts)")
      #expect(!counts.contains(#""sleeps": 0"#), "\(counts)")
    }
  }

  @Test(
    "a large TCP packet is left to the device, unless that was not negotiated",
    .enabled(if: isAvailable, "needs root and /dev/net/tun"), arguments: [true, false])
  func segmentation(isNegotiated: Bool) throws {
    // What comes back is not merged again.
    let arguments = [isNegotiated ? "--without=guest-tso" : "--without=tso,guest-tso"]
    try withTap(arguments, protocol: Self.ip) { socket in
      try sendLarge(socket)
      for i in 0..<20 {
        let segment = try receive(socket)
        #expect(segment.count == 54 + 1000)
        #expect(segment[38..<42].reduce(0) { $0 << 8 | Int($1) } == 7 + 1000 * i)
      }
    } check: { counts in
      // Without it the kernel has cut the packet before the tap.
      #expect(counts.contains(#""transmitted_large": \#(isNegotiated ? 1 : 0),"#), "\(counts)")
    }
  }

  @Test(
    "segments that come back are one large packet for the stack, which takes that",
    .enabled(if: isAvailable, "needs root and /dev/net/tun"))
  func merging() throws {
    try withTap([], protocol: Self.ip) { socket in
      try sendLarge(socket)
      #expect(try receive(socket).count == 54 + 20_000)
    } check: { counts in
      #expect(counts.contains(#""transmitted_large": 1,"#), "\(counts)")
    }
  }

  @Test("the stack leaves to the device what was negotiated")
  func offloads() {
    #expect(TapDevice.offloads([.hostTSO4, .hostUSO]) == (0, 0))
    #expect(TapDevice.offloads(.csum) == (1, 0))
    #expect(TapDevice.offloads([.csum, .hostECN]) == (1, 0))
    #expect(TapDevice.offloads([.csum, .hostTSO4, .hostECN]) == (1 | 2 | 8, 0))
    #expect(
      TapDevice.offloads([.csum, .hostTSO4, .hostTSO6, .hostUSO]) == (1 | 2 | 4, 0x20 | 0x40))
  }

  @Test("features are left out by name, with those that rest on them")
  func features() throws {
    let all = try TapOptions.parse([]).wantedFeatures
    #expect(all.isSuperset(of: [.csum, .hostTSO4, .hostUSO, .guestCsum, .guestTSO4, .mrgRxbuf]))
    let some = try TapOptions.parse(["--without=csum,guest-tso,mrg-rxbuf"]).wantedFeatures
    #expect(some.isDisjoint(with: [.csum, .hostTSO4, .hostUSO, .guestTSO4, .mrgRxbuf]))
    #expect(some.contains(.guestCsum))
    #expect(try TapOptions.parse([]).receiveRoom([.guestTSO4, .mrgRxbuf]) == 4096)
    #expect(try TapOptions.parse([]).receiveRoom([.guestTSO4]) == TapOptions.largest)
    #expect(try TapOptions.parse([]).receiveRoom([.mrgRxbuf]) == 2048)
  }

  @Test(
    "a value that cannot be is refused with those that can",
    arguments: [
      ("--without=nothing", "takes csum, guest-csum"), ("--receive-room=63", "64 to 65600"),
      ("--spin-us=-1", "0 to 1000000"),
    ])
  func refusals(argument: String, remedy: String) {
    #expect { try TapOptions.parse([argument]) } throws: {
      TapOptions.message(for: $0).contains(remedy)
    }
  }

  @Test("a name that is too long is told")
  func name() throws {
    #expect { try TapDevice("an-interface-name", mergesReceived: false) } throws: {
      "\($0)".contains("1 to 15 bytes")
    }
  }

  // MARK: The interface

  /// Runs `body` with a packet socket of an interface whose device reflects.
  private func withTap(
    _ arguments: [String], protocol: UInt16, _ body: (CInt) throws -> Void,
    check: (String) -> Void
  ) throws {
    let backEnd = try BackEndThread("tap\(`protocol`)\(arguments.joined())")
    let ours = arguments.filter {
      $0.hasPrefix("--without") || $0.hasPrefix("--rec") || $0.hasPrefix("--spin") || $0 == "--napi"
    }
    let tap = try TapOptions.parse(ours)
    let options = try BackEndOptions.parse(
      ["--socket=\(backEnd.path)"] + arguments.filter { !ours.contains($0) })
    let stop = try EventDescriptor()
    let ready = try Reply<String>()
    let ended = try Reply<String>()
    let thread = try PinnedThread(name: "tap-guest") {
      let result = Result {
        options.packed
          ? try TapTests.relay(PackedPollingRing.self, options, tap, `protocol`, ready, stop)
          : try TapTests.relay(SplitPollingRing.self, options, tap, `protocol`, ready, stop)
      }
      switch result {
      case .success(let counts): ended.fulfil(counts)
      case .failure(let error):
        ready.fulfil("\(error)")
        ended.fulfil("\(error)")
      }
    }
    let answer = ready.wait()
    let result = Result {
      let socket = try #require(CInt(answer), "\(answer)")
      defer { close(socket) }
      try body(socket)
    }
    stop.signal()
    let counts = ended.wait()
    thread.join()
    backEnd.join()
    try result.get()
    check(counts)
  }

  /// The guest, in a network namespace of the calling thread's own.
  private static func relay<Ring: PollingRing & ~Copyable>(
    _: Ring.Type, _ options: BackEndOptions, _ tap: TapOptions, _ type: UInt16,
    _ ready: Reply<String>, _ stop: EventDescriptor
  ) throws -> String {
    let newNetwork: CInt = 0x4000_0000
    try checkedCall { unshare(newNetwork) }
    // What the stack says by itself would take buffers that our frames need.
    try withoutIPv6()
    let guest = try TapGuest<Ring>(options, tap)
    try Interface.bringUp(tap.interface)
    ready.fulfil(String(try packetSocket(tap.interface, type)))
    try guest.run(until: stop)
    guest.stop()
    return guest.counts.value.report
  }

  /// In the network namespace of the calling thread, for interfaces that are made later.
  private static func withoutIPv6() throws {
    let file = unsafe open(
      "/proc/sys/net/ipv6/conf/default/disable_ipv6", O_WRONLY)
    // There is none.
    guard file >= 0 else { return }
    let setting = OwnedDescriptor(adopting: file)
    try checkedCall { unsafe CInt(write(setting.raw, "1", 1)) }
  }

  // MARK: Frames

  /// Sends with a virtio-net header in front, and receives frames of a type.
  private static func packetSocket(_ interface: String, _ type: UInt16) throws -> CInt {
    let socket = try checkedCall {
      Glibc.socket(AF_PACKET, CInt(SOCK_RAW.rawValue | SOCK_CLOEXEC.rawValue), 0)
    }
    var patience = timeval(tv_sec: 60, tv_usec: 0)
    try checkedCall {
      unsafe setsockopt(
        socket, SOL_SOCKET, SO_RCVTIMEO, &patience, socklen_t(MemoryLayout<timeval>.size))
    }
    var yes: CInt = 1
    try checkedCall { unsafe setsockopt(socket, SOL_PACKET, PACKET_VNET_HDR, &yes, 4) }
    var address = sockaddr_ll()
    address.sll_family = UInt16(AF_PACKET)
    address.sll_protocol = type.bigEndian
    address.sll_ifindex = CInt(unsafe if_nametoindex(interface))
    try checkedCall {
      unsafe withUnsafePointer(to: &address) {
        unsafe $0.withMemoryRebound(to: sockaddr.self, capacity: 1) {
          unsafe bind(socket, $0, socklen_t(MemoryLayout<sockaddr_ll>.size))
        }
      }
    }
    return socket
  }

  private func frame(number: Int) -> [UInt8] {
    let start: [UInt8] = [2, 0, 0, 0, 0, 2, 2, 0, 0, 0, 0, 1, 0x88, 0xb5]
    let length = 60 + number * 7 % 1454
    return start + (start.count..<length).map { UInt8(truncatingIfNeeded: $0 &* 3 &+ number) }
  }

  /// 20 segments of 1000 bytes of TCP over IPv4.
  private func sendLarge(_ socket: CInt) throws {
    var frame: [UInt8] = [2, 0, 0, 0, 0, 2, 2, 0, 0, 0, 0, 1, 0x08, 0x00]
    frame += [0x45, 0, 0x4e, 0x48, 0, 1, 0, 0, 64, 6, 0, 0, 192, 0, 2, 1, 192, 0, 2, 2]
    frame += [0x10, 0, 0x20, 0, 0, 0, 0, 7, 0, 0, 0, 0, 0x50, 0x10, 1, 0, 0, 0, 0, 0]
    frame += [UInt8](repeating: 0x5a, count: 20_000)
    // NEEDS_CSUM, TCPV4, hdr_len, gso_size, csum_start, csum_offset.
    try send(socket, frame, header: [1, 1, 54, 0, 0xe8, 0x03, 34, 0, 16, 0])
  }

  private func send(
    _ socket: CInt, _ frame: [UInt8], header: [UInt8] = [UInt8](repeating: 0, count: 10)
  ) throws {
    let bytes = header + frame
    let sent = unsafe Glibc.send(socket, bytes, bytes.count, 0)
    try #require(sent == bytes.count, "\(Errno.current)")
  }

  private func receive(_ socket: CInt) throws -> [UInt8] {
    var bytes = [UInt8](repeating: 0, count: 70_000)
    let count = unsafe recv(socket, &bytes, bytes.count, 0)
    try #require(count > 10, "nothing came back: \(Errno.current)")
    return Array(bytes[10..<count])
  }
}

@_silgen_name("unshare")
private func unshare(_ flags: CInt) -> CInt
