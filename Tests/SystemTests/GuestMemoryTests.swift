import Testing

extension SystemTests {
  @Suite("the guest's memory", .enabled(if: Guest.isFetched, Guest.missing))
  struct MemoryOfTheGuest {
    let wire: Wire
    init() throws { wire = try Wire() }

    @Test("may be of huge pages")
    func hugePages() throws {
      // 384 MiB, and what the daemon takes for its frames.
      let reserved = try HugePages(adding: 256)
      defer { reserved.restore() }
      let daemon = try wire.startDaemon()
      let guest = try Guest(on: wire, memory: ",hugetlb=on,hugetlbsize=2M")
      try guest.waitUntilUp()
      #expect(
        contents(of: "/proc/\(daemon.process.pid)/smaps").contains("KernelPageSize:     2048 kB"))
      #expect(try guest.ping(count: 20) == 20)
      #expect(Set(try guest.copyFile(megabytes: 8)).count == 1)
    }

    @Test("may grow while packets flow, and packets then lie in what was added")
    func hotplug() throws {
      let daemon = try wire.startDaemon()
      let guest = try Guest(on: wire, arguments: "-m slots=2,maxmem=2G")
      try guest.waitUntilUp()
      let (mappings, connections) = (daemon.guestMappings, daemon.connections)
      let sender = try wire.start(
        ["python3", "-c", Wire.sender(count: 1_000_000, size: 1000, perSecond: 1000)], in: .far,
        name: "sender")
      #expect(try guest.sendPatterns().memory.upperBound < 4096)

      try guest.addMemory(megabytes: 256)

      try? eventually(within: 30, "it is mapped") { daemon.guestMappings == mappings + 1 }
      #expect(daemon.guestMappings == mappings + 1)
      let (seen, memory) = try guest.sendPatterns()
      #expect(seen == .all)
      #expect(memory.lowerBound >= 4096, "QEMU puts it above 4 GiB: \(memory)")
      #expect(Set(try guest.copyFile(megabytes: 8)).count == 1)
      #expect(try guest.ping(count: 20) == 20)
      // Few at a time: the guest clears pages before it uses them again.
      try eventually(within: 60, "received frames lie in it too") {
        try guest.framesInAddedMemory(megabytes: 256) > 0
      }

      #expect(sender.isRunning)
      #expect(daemon.connections == connections, "one connection the whole time")
      #expect(daemon.complaints == [])
    }
  }
}

extension Guest {
  /// A memory module is plugged in, and its kernel has taken it.
  fileprivate func addMemory(megabytes: Int) throws {
    let total = "awk \"/MemTotal/ { print \\$2 }\" /proc/meminfo"
    guard let before = Int(try run(total).filter(\.isNumber)) else {
      throw HarnessError("no MemTotal")
    }
    try wire.shell(
      """
      guest_monitor object_add memory-backend-memfd,id=more,size=\(megabytes)M,share=on
      guest_monitor device_add pc-dimm,id=dimm,memdev=more
      """)
    try run("until [ $(\(total)) -gt \(before + megabytes * 512) ]; do usleep 100000; done")
  }

  /// How many frames of `Wire.sender` are in the memory that was added.
  fileprivate func framesInAddedMemory(megabytes: Int) throws -> Int {
    let text = try wire.shell(
      """
      python3 - $(guest_pid) <<'END'
      import os, sys
      folder = '/proc/%s/fd/' % sys.argv[1]
      frame = b'\\xff' * 6 + b'\\x02\\0\\0\\0\\0\\x77\\x88\\xb5'
      for name in os.listdir(folder):
          if 'memfd:' in os.readlink(folder + name):
              if os.stat(folder + name).st_size == \(megabytes) << 20:
                  print(open(folder + name, 'rb').read().count(frame))
                  break
      END
      """)
    guard let count = Int(text.filter(\.isNumber)) else { throw HarnessError("no frames: \(text)") }
    return count
  }
}

/// Huge pages of the host, reserved for a test.
private struct HugePages {
  private static let file = "/proc/sys/vm/nr_hugepages"
  private let before: Int

  init(adding count: Int) throws {
    before = Self.reserved
    do {
      // Memory that is in pieces has to be put together first, which the kernel does in several goes.
      try eventually(within: 60, "\(count) huge pages can be had, not \(Self.reserved - before)") {
        try Self.write(before + count)
        if Self.reserved == before + count { return true }
        try Self.compact()
        return false
      }
    } catch {
      restore()
      throw error
    }
  }

  private static var reserved: Int { Int(contents(of: file).filter(\.isNumber)) ?? 0 }

  func restore() { try? Self.write(before) }

  private static func write(_ count: Int) throws {
    let child = try ChildProcess(
      ["sysctl", "-qw", "vm.nr_hugepages=\(count)"], log: "/dev/null")
    guard try child.wait() == .exited(0) else {
      throw HarnessError("vm.nr_hugepages cannot be set")
    }
  }

  private static func compact() throws {
    _ = try ChildProcess(["sysctl", "-qw", "vm.compact_memory=1"], log: "/dev/null").wait()
  }
}
