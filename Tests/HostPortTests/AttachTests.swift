import CBPF
import CLinux
import Glibc
import Linux
import Testing

@testable import AFXDP
@testable import HostPort

extension OnInterfaces {
  @Suite struct AttachTests {
    /// The message of what `body` throws; nil if it does not.
    private func refusal(_ body: () throws(PortError) -> Void) -> String? {
      do {
        try body()
        return nil
      } catch {
        return error.description
      }
    }

    @Test("the program is attached while the port or a queue lives, and no longer")
    func lifetime() throws {
      try PrivateNetwork.withVeth { a, _ in
        do {
          let queue: any HostPortQueue
          do {
            let port = try XDPPort(options(a, mode: .native))
            #expect(AttachedProgram(on: a)?.mode == "native")
            queue = try port.openQueue(0)
          }
          #expect(AttachedProgram(on: a)?.isOurs == true)
          _ = queue
        }
        // A child that another test starts at this moment holds our descriptors until it runs.
        #expect(eventually { AttachedProgram(on: a) == nil })
        let port = try XDPPort(options(a, mode: .skb))
        #expect(AttachedProgram(on: a)?.mode == "skb")
        _ = port
      }
    }

    // In a process of its own, since other tests have interfaces at the same time.
    @Test("opening and closing a port leaves no descriptor and no mapping behind")
    func leaks() async {
      await #expect(processExitsWith: .success) {
        try PrivateNetwork.withVeth { a, _ in
          let before = KernelObjects()
          for _ in 0..<5 {
            let queue = try XDPPort(options(a)).openQueue(0)
            guard KernelObjects() != before else { exit(2) }
            queue.send([frame()])
          }
          // A program's go a little later.
          guard eventually({ KernelObjects() == before }) else { exit(3) }
        }
      }
    }

    @Test("a program that somebody else attached stays, and is named", arguments: [true, false])
    func foreign(native: Bool) throws {
      try PrivateNetwork.withVeth { a, _ in
        let program = try ForeignProgram()
        let flags = UInt32(native ? XDP_FLAGS_DRV_MODE : XDP_FLAGS_SKB_MODE)
        #expect(bpf_xdp_attach(CInt(a.index), program.raw, flags, nil) == 0)
        let before = try #require(AttachedProgram(on: a))
        for mode in XDPModeChoice.allCases {
          let message = refusal { () throws(PortError) in _ = try XDPPort(options(a, mode: mode)) }
          #expect(message?.contains("axt0") == true)
          #expect(message?.contains("'axt_foreign' (id \(before.id), ") == true)
          #expect(
            message?.contains("`ip link set dev axt0 \(native ? "xdp" : "xdpgeneric") off`") == true
          )
        }
        #expect(AttachedProgram(on: a)?.id == before.id)
      }
    }

    @Test("a second daemon on an interface is refused, with the first one named")
    func second() throws {
      try PrivateNetwork.withVeth { a, _ in
        let first = try XDPPort(options(a))
        let message = refusal { () throws(PortError) in _ = try XDPPort(options(a)) }
        #expect(
          message?.contains("axt0 is served by process \(getpid()) (") == true, "\(message ?? "")")
        _ = first
      }
    }

    @Test("a queue that is taken is refused by name, once the kernel had time to free it")
    func busy() throws {
      try PrivateNetwork.withVeth { a, _ in
        let port = try XDPPort(options(a))
        let first = try port.openQueue(0)
        var start = timespec()
        unsafe clock_gettime(CLOCK_MONOTONIC, &start)
        let message = refusal { () throws(PortError) in _ = try port.openQueue(0) }
        var end = timespec()
        unsafe clock_gettime(CLOCK_MONOTONIC, &end)
        let reason = "axt0 queue 0 is in use by another AF_XDP socket (EBUSY)"
        let isAlone = message?.contains(reason + ", of no process") == true
        // Whoever else has such sockets on this machine may be the one, and is waited for less long.
        let hasOthers = message?.contains(reason + "; AF_XDP sockets are open in process ") == true
        #expect(isAlone || hasOthers, "\(message ?? "")")
        let seconds = Double(end.tv_sec - start.tv_sec) + Double(end.tv_nsec - start.tv_nsec) / 1e9
        #expect(seconds > (isAlone ? 14 : 0.9) && seconds < 60, "\(seconds) s")
        _ = first
      }
    }

    @Test("a queue that was just closed can be opened again at once")
    func reopen() throws {
      try PrivateNetwork.withVeth { a, _ in
        let port = try XDPPort(options(a))
        for _ in 0..<3 { _ = try port.openQueue(0) }
      }
    }

    @Test("a queue that the NIC does not have is said by name")
    func noSuchQueue() throws {
      try PrivateNetwork.withVeth { a, _ in
        var many = options(a)
        many.queueCount = 40
        let port = try XDPPort(many)
        let message = refusal { () throws(PortError) in _ = try port.openQueue(39) }
        #expect(message?.contains("axt0 queue 39") == true)
        #expect(message?.contains("--queues=N") == true)
      }
    }

    @Test("a queue that was opened while the interface was down works once it is up")
    func openedDown() throws {
      try PrivateNetwork.withVeth { a, b in
        run("ip link set axt0 down")
        let near = try XDPPort(options(a)).openQueue(0)
        run("ip link set axt0 up")
        let far = try XDPPort(options(b)).openQueue(0)
        #expect(far.send([frame(number: 1)]) == 1)
        #expect(near.collect(1) == [frame(number: 1)])
      }
    }

    @Test("zero-copy is refused where there is none, and auto says why it was not got")
    func zeroCopy() throws {
      try PrivateNetwork.withVeth { a, _ in
        var strict = options(a)
        strict.copyMode = .zeroCopy
        let message = refusal { () throws(PortError) in _ = try XDPPort(strict).openQueue(0) }
        #expect(message?.contains("no zero-copy on axt0 queue 0: driver veth refused") == true)
        #expect(message?.contains("--copy-mode=auto") == true)
        let queue = try XDPPort(options(a)).openQueue(0)
        #expect(queue.mode.contains("driver veth refused zero-copy: "))
        #expect(queue.mode.contains(TransmitPath.linear.rawValue))
      }
    }

    @Test("an MTU beyond what several frames hold is noted with the largest that works")
    func hugeMTU() throws {
      let largest = FrameGeometry.largestMultiBufferMTU
      try PrivateNetwork.withVeth(mtu: 65535) { a, _ in
        let port = try XDPPort(options(a, mtu: 65535))
        #expect(port.notes.contains { $0.contains("packets beyond \(largest) are dropped") })
        #expect(port.capabilities.mtu == largest)
        _ = try port.openQueue(0)
      }
    }

    @Test(
      "frames of the largest MTU fit a frame", arguments: [1774, 1775, FrameGeometry.largestMTU])
    func largestFrames(mtu: Int) throws {
      try PrivateNetwork.withVeth(mtu: mtu) { a, b in
        let near = try XDPPort(options(a, mode: .skb, mtu: mtu)).openQueue(0)
        let far = try XDPPort(options(b, mode: .skb, mtu: mtu)).openQueue(0)
        let largest = frame(size: mtu + 18, number: 3)
        near.send([largest])
        #expect(far.collect(1) == [largest])
      }
    }
  }
}

/// `return XDP_PASS`, loaded under another name.
private struct ForeignProgram: ~Copyable {
  private let owned: OwnedDescriptor
  var raw: CInt { owned.raw }

  init() throws {
    // BPF_ALU64 | BPF_MOV | BPF_K, then BPF_JMP | BPF_EXIT.
    let instructions = [
      bpf_insn(code: 0xb7, dst_reg: 0, src_reg: 0, off: 0, imm: 2),
      bpf_insn(code: 0x95, dst_reg: 0, src_reg: 0, off: 0, imm: 0),
    ]
    let result = unsafe bpf_prog_load(
      BPF_PROG_TYPE_XDP, "axt_foreign", "GPL", instructions, instructions.count, nil)
    guard result >= 0 else { throw Errno(-result) }
    owned = OwnedDescriptor(adopting: result)
  }
}

/// What this process holds of BPF and AF_XDP.
private struct KernelObjects: Equatable {
  var bpf = 0
  var rings = 0

  init() {
    for descriptor in 0..<1024 {
      var target = [CChar](repeating: 0, count: 256)
      let length = unsafe readlink("/proc/self/fd/\(descriptor)", &target, 255)
      guard length > 0 else { continue }
      let text = String(
        decoding: target[0..<length].map { UInt8(bitPattern: $0) }, as: UTF8.self)
      if text.contains("bpf") { bpf += 1 }
    }
    guard let maps = unsafe fopen("/proc/self/maps", "r") else { return }
    defer { unsafe fclose(maps) }
    var line = [CChar](repeating: 0, count: 4096)
    while unsafe fgets(&line, 4096, maps) != nil {
      let text = String(
        decoding: line.prefix { $0 != 0 }.map { UInt8(bitPattern: $0) }, as: UTF8.self)
      if text.contains("socket:[") { rings += 1 }
    }
  }
}
