// The command line as people and management layers write it.
import AFXDP
import HostPort
import Logging
import Packet
import Testing
import VirtioNet

@testable import vhost_user_xdp

@Suite("Options")
struct OptionsTests {
  private func options(_ arguments: String...) throws -> Options {
    switch Command(arguments) {
    case .run(let options): return options
    case .print(let text), .refuse(let text): throw Unexpected(text: text)
    case .capabilities: throw Unexpected(text: "capabilities")
    case .grant: throw Unexpected(text: "grant")
    }
  }

  struct Unexpected: Error { var text: String }

  @Test("the two needed options are enough, and the rest has its defaults")
  func defaults() throws {
    let options = try options("--socket-path=/run/a.sock", "--interface=eth1")
    #expect(options.socketPath == "/run/a.sock")
    #expect(options.port == .interface("eth1"))
    #expect(options.queuePairs == 1)
    #expect(options.addresses.isEmpty && !options.dedicated && !options.client && !options.force)
    #expect(options.xdpMode == nil && options.copyMode == nil && options.cpus.cpus.isEmpty)
    #expect(options.logLevel == .info)
    #expect(options.polling.mode == .adaptive && options.polling.budget == 50)
    #expect(!options.preferBusyPoll && options.bulkLane == nil && !options.postcopy)
  }

  @Test("every option is taken, with = or a space")
  func everything() throws {
    let options = try options(
      "--socket-path", "s", "--interface", "eth1", "--queues=4", "--mac=52:54:00:12:34:56",
      "--mac=52-54-00-12-34-57", "--client", "--xdp-mode=skb", "--copy-mode=zero-copy",
      "--no-promiscuous", "--force", "--cpus=2,4-7,3", "--log-level=debug", "--poll=adaptive",
      "--poll-budget=200", "--prefer-busy-poll", "--bulk-lane=packet", "--postcopy")
    #expect(options.queuePairs == 4)
    #expect(
      options.addresses.map(\.description) == ["52:54:00:12:34:56", "52:54:00:12:34:57"])
    #expect(options.client && options.noPromiscuous && options.force)
    #expect(options.xdpMode == .skb && options.copyMode == .zeroCopy)
    #expect(options.cpus.cpus == [2, 3, 4, 5, 6, 7])
    #expect(options.logLevel == .debug)
    #expect(options.polling.budget == 200 && options.preferBusyPoll)
    #expect(options.bulkLane == .packet && options.postcopy)
  }

  @Test("who may connect is told by number or name")
  func access() throws {
    let options = try options(
      "--socket-path=s", "--interface=null:", "--socket-mode=0660", "--socket-group=kvm",
      "--allow-uid=107", "--allow-uid=qemu")
    #expect(options.socketMode?.bits == 0o660 && options.socketGroup == .name("kvm"))
    #expect(options.allowedUsers == [.number(107), .name("qemu")])
    #expect(throws: Unexpected.self) {
      _ = try self.options("--socket-path=s", "--interface=null:", "--socket-mode=0999")
    }
    #expect(throws: Unexpected.self) {
      _ = try self.options("--fd=3", "--interface=null:", "--socket-mode=0600")
    }
    #expect(throws: Unexpected.self) {
      _ = try self.options("--socket-path=s", "--interface=null:", "--allow-uid=4294967295")
    }
  }

  @Test("workers spin never, always or when it is worth it")
  func polling() throws {
    #expect(try options("--fd=3", "--interface=null:", "--poll=busy").polling.mode == .busy)
    #expect(try options("--fd=3", "--interface=null:", "--poll=sleep").polling.mode == .sleep)
  }

  @Test("a control queue is offered on request, with an address")
  func controlQueue() throws {
    #expect(try !options("--fd=3", "--interface=null:").controlQueue)
    let options = try options(
      "--fd=3", "--interface=null:", "--control-queue", "--guest-mac=52:54:00:12:34:56")
    #expect(options.controlQueue && options.guestAddress?.description == "52:54:00:12:34:56")
  }

  @Test("offloads are switched off by name, the network card's checksum apart from the guest's")
  func offloads() throws {
    #expect(try options("--fd=3", "--interface=eth1").offloads == Set(Offload.allCases))
    let some = try options("--fd=3", "--interface=eth1", "--disable-offload=hwcsum,uso").offloads
    #expect(some == Set(Offload.allCases).subtracting([.hardwareChecksum, .uso]))
    let disabled = try options("--fd=3", "--interface=eth1", "--disable-offload", "csum").offloads
    #expect(disabled.contains(.hardwareChecksum) && !disabled.contains(.checksum))
  }

  @Test("the stand-in ports are told from interfaces by their colon")
  func ports() throws {
    #expect(try options("--fd=3", "--interface=null:").port == .null)
    #expect(try options("--fd=3", "--interface=reflect:").port == .reflect)
    #expect(try options("--fd=3", "--interface=generate:64").port == .generate(size: 64))
    #expect(try options("--fd=3", "--interface=null").port == .interface("null"))
    #expect(try options("--fd=3", "--interface=reflect").port == .interface("reflect"))
  }

  @Test(
    "a wrong command line is one line that says what to give instead",
    arguments: [
      (["--interface=eth1"], "--socket-path=PATH or --fd=NUMBER"),
      (["--socket-path=s"], "--interface"),
      (["--socket-path=s", "--fd=3", "--interface=eth1"], "exclude each other"),
      (["--socket-path", "", "--interface=eth1"], "--socket-path is empty"),
      (["--fd=-1", "--interface=eth1"], "number of an open one"),
      (["--fd=x", "--interface=eth1"], "--fd"),
      (["--fd=3", "--client", "--interface=eth1"], "excludes --fd"),
      (["--fd=3", "--interface=eth1", "--queues=0"], "1 to 128"),
      (["--fd=3", "--interface=eth1", "--poll=often"], "adaptive"),
      (["--fd=3", "--interface=eth1", "--poll-budget=0"], "1 to 10000 microseconds"),
      (["--fd=3", "--interface=eth1", "--poll-budget=10001"], "--poll=sleep"),
      (["--fd=3", "--interface=eth1", "--poll=busy", "--poll-budget=9"], "no meaning"),
      (["--fd=3", "--interface=null:", "--prefer-busy-poll"], "--prefer-busy-poll"),
      (["--fd=3", "--interface=eth1", "--bulk-lane=on"], "'packet'"),
      (["--fd=3", "--interface=null:", "--bulk-lane=off"], "--bulk-lane has no meaning"),
      (
        ["--fd=3", "--interface=eth1", "--bulk-lane=packet", "--disable-offload=csum"],
        "no meaning"
      ),
      (
        ["--fd=3", "--interface=eth1", "--bulk-lane=packet", "--disable-offload=tso,uso"],
        "the guest cuts its packets itself"
      ),
      (["--fd=3", "--interface=eth1", "--queues=129"], "1 to 128"),
      (["--fd=3", "--interface=eth1", "--dedicated", "--mac=02:00:00:00:00:01"], "exclude"),
      (["--fd=3", "--interface=eth1", "--mac=01:00:5e:00:00:01"], "unicast"),
      (["--fd=3", "--interface=eth1", "--mac=00:00:00:00:00:00"], "unicast"),
      (["--fd=3", "--interface=eth1", "--mac=02:00:00:00:00"], "52:54:00:12:34:56"),
      (["--fd=3", "--interface=eth1", "--queues=128", "--control-queue"], "1 to 127"),
      (["--fd=3", "--interface=eth1", "--guest-mac=02:00:00:00:00:01"], "--control-queue"),
      (
        [
          "--fd=3", "--interface=eth1", "--control-queue", "--guest-mac=02:00:00:00:00:01",
          "--mac=02:00:00:00:00:02",
        ], "exclude each other"
      ),
      (["--fd=3", "--interface=a-name-of-16-byte"], "ip link"),
      (["--fd=3", "--interface=a/b"], "ip link"),
      (["--fd=3", "--interface=generate:59"], "60 to 9014"),
      (["--fd=3", "--interface=generate:9015"], "60 to 9014"),
      (["--fd=3", "--interface=generate:"], "60 to 9014"),
      (["--fd=3", "--interface=reflect:64"], "null:, reflect: or generate:SIZE"),
      (["--fd=3", "--interface=reflect:", "--dedicated"], "--dedicated has no meaning"),
      (["--fd=3", "--interface=null:", "--mac=02:00:00:00:00:01"], "--mac has no meaning"),
      (["--fd=3", "--interface=null:", "--dedicated"], "--dedicated has no meaning"),
      (["--fd=3", "--interface=null:", "--xdp-mode=skb"], "--xdp-mode has no meaning"),
      (["--fd=3", "--interface=generate:64", "--force"], "--force has no meaning"),
      (["--fd=3", "--interface=eth1", "--cpus=4-2"], "2,4-7"),
      (["--fd=3", "--interface=eth1", "--cpus="], "Missing value for '--cpus"),
      (["--fd=3", "--interface=eth1", "--cpus=1,"], "2,4-7"),
      (["--fd=3", "--interface=eth1", "--cpus=1024"], "below 1024"),
      (["--fd=3", "--interface=eth1", "--xdp-mode=driver"], "'native'"),
      (["--fd=3", "--interface=eth1", "--copy-mode=none"], "'zero-copy'"),
      (["--fd=3", "--interface=eth1", "--log-level=loud"], "notice"),
      (["--fd=3", "--interface=eth1", "--disable-offload=hwsum"], "hwcsum"),
      (["--fd=3", "--interface=eth1", "--nonsense"], "--nonsense"),
      (["--fd=3", "--interface=eth1", "eth2"], "eth2"),
    ])
  func refusals(arguments: [String], remedy: String) {
    guard case .refuse(let line) = Command(arguments) else {
      Issue.record("accepted: \(arguments)")
      return
    }
    #expect(line.contains(remedy), "\(line)")
    #expect(line.split(whereSeparator: \.isNewline).count == 1)
  }

  @Test("behind the word grant there are its options, then the daemon's, as they are passed on")
  func grant() throws {
    let daemon = ["--socket-path=s", "--interface", "eth1", "--queues=2"]
    guard
      case .grant(let grant, let options, let others) = Command(
        ["grant", "--user", "vm", "--group=36", "--"] + daemon)
    else { throw Unexpected(text: "no grant") }
    #expect(grant.user == .name("vm") && grant.group == .number(36))
    #expect(options.port == .interface("eth1") && options.queuePairs == 2)
    #expect(others == daemon)
  }

  @Test("a grant without a user, without a daemon, or with a wrong one is refused")
  func wrongGrants() {
    let cases: [(arguments: [String], line: String)] = [
      (["--", "--socket-path=s", "--interface=eth1"], "--user"),
      (["--user=vm", "--socket-path=s", "--interface=eth1"], "Unknown option '--socket-path'"),
      (["--user=vm"], "give its options behind --"),
      (["--user=vm", "--"], "--interface"),
      (["--user=vm", "--", "--socket-path=s", "--interface=eth1", "--queues=0"], "--queues=0"),
    ]
    for (arguments, line) in cases {
      guard case .refuse(let text) = Command(["grant"] + arguments) else {
        Issue.record("\(arguments) is not refused")
        continue
      }
      #expect(text.contains(line), "\(text)")
    }
  }

  @Test("--print-capabilities wins over everything, also over nonsense")
  func capabilities() {
    let lines = [
      ["--print-capabilities"], ["--nonsense", "--print-capabilities", "--queues=x"],
      ["--socket-path=s", "--fd=3", "--print-capabilities"],
    ].map { arguments in
      if case .print(let text) = Command(arguments) { text } else { "" }
    }
    #expect(lines.allSatisfy { $0 == "{\"type\":\"net\"}\n" })
  }

  @Test("the help names every option")
  func help() {
    guard case .print(let text) = Command(["--help"]) else {
      Issue.record("no help")
      return
    }
    for option in [
      "socket-path", "fd", "client", "interface", "queues", "mac", "dedicated", "xdp-mode",
      "copy-mode", "no-promiscuous", "force", "cpus", "log-level", "print-capabilities", "version",
      "bulk-lane", "postcopy",
    ] {
      #expect(text.contains("--\(option)"))
    }
  }
}
