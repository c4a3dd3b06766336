// `bench-driver tap`: the kernel's own network stack as the guest of a back-end.
import ArgumentParser
import Glibc
import GuestDriver
import Linux
import SharedRing
import Synchronization
import Virtqueue

struct TapOptions: ParsableArguments {
  @Option(help: "The tap device to make, in the network namespace that this runs in.")
  var interface = "tap0"

  @Option(
    help: ArgumentHelp(
      """
      What not to negotiate though it is offered: csum (with tso, uso), tso, uso, guest-csum (with \
      guest-tso, guest-uso), guest-tso, guest-uso, mrg-rxbuf.
      """, valueName: "names"))
  var without: String?

  @Option(
    help: ArgumentHelp(
      "Bytes of a receive buffer; unless given, 2048, or what negotiated features ask for.",
      valueName: "bytes"))
  var receiveRoom: Int?

  @Flag(help: "What is received goes through the stack's NAPI and GRO.")
  var napi = false

  @Option(help: "Microseconds to look for work before going to sleep.")
  var spinUs = 0.0

  /// A packet of 64 KiB with headers, in bytes of a buffer.
  static let largest = 65600
  private static let names: [String: VirtioFeatures] = [
    "csum": [.csum, .hostTSO4, .hostTSO6, .hostECN, .hostUSO],
    "tso": [.hostTSO4, .hostTSO6, .hostECN], "uso": .hostUSO,
    "guest-csum": guestOffloads, "guest-tso": guestTSO, "guest-uso": guestUSO,
    "mrg-rxbuf": .mrgRxbuf,
  ]
  private static let guestTSO = bits([7, 8, 9])
  private static let guestUSO = bits([54, 55])
  private static let guestOffloads = bits([1]).union(guestTSO).union(guestUSO)

  private static func bits(_ numbers: [UInt64]) -> VirtioFeatures {
    VirtioFeatures(rawValue: numbers.reduce(0) { $0 | 1 << $1 })
  }

  func validate() throws {
    for name in named where TapOptions.names[name] == nil {
      throw ValidationError(
        "--without=\(name): takes \(TapOptions.names.keys.sorted().joined(separator: ", "))")
    }
    guard (64...TapOptions.largest).contains(receiveRoom ?? 64) else {
      throw ValidationError("--receive-room takes 64 to \(TapOptions.largest) bytes")
    }
    guard spinUs >= 0, spinUs <= 1e6 else {
      throw ValidationError("--spin-us takes 0 to 1000000 microseconds")
    }
  }

  private var named: [String] { (without ?? "").split(separator: ",").map(String.init) }

  /// What is negotiated as far as it is offered.
  var wantedFeatures: VirtioFeatures {
    let all: VirtioFeatures = [.csum, .hostTSO4, .hostTSO6, .hostECN, .hostUSO, .mrgRxbuf]
    return named.reduce(all.union(TapOptions.guestOffloads)) {
      $0.subtracting(TapOptions.names[$1] ?? [])
    }
  }

  /// Room of a receive buffer.  Linux gives as much as packets take, up to a page.
  func receiveRoom(_ features: VirtioFeatures) -> Int {
    let large = !features.isDisjoint(with: TapOptions.guestTSO.union(TapOptions.guestUSO))
    return receiveRoom
      ?? (large ? (features.contains(.mrgRxbuf) ? 4096 : TapOptions.largest) : 2048)
  }
}

struct TapCommand: ParsableCommand {
  static let configuration = CommandConfiguration(
    commandName: "tap",
    abstract: "The network stack of this kernel, behind a tap device, as the guest.",
    discussion: """
      Makes a tap device with virtio-net headers in the network namespace that it is started in, and \
      moves packets between it and one queue pair: the kernel's own TCP with its segmentation \
      offload drives the device, at native speed. Give the interface its address when "ready" is \
      printed. Every offload that the back-end offers is negotiated, unless --without names it. Runs \
      until SIGTERM or SIGINT, then prints one JSON object: packets, bytes and large packets \
      (with a gso_type) each way, buffers that those received took, refused: what the tap did not \
      take, with the last error; kicks, sleeps.
      """)

  @OptionGroup var backEnd: BackEndOptions
  @OptionGroup var tap: TapOptions

  func run() throws {
    try backEnd.pin()
    if backEnd.packed {
      try relay(PackedPollingRing.self)
    } else {
      try relay(SplitPollingRing.self)
    }
  }

  private func relay<Ring: PollingRing & ~Copyable>(_: Ring.Type) throws {
    let stop = try EventDescriptor()
    StopSignal.handle(stop)
    let guest = try TapGuest<Ring>(backEnd, tap)
    say("ready: \(tap.interface): \(guest.features.namesOfBits.joined(separator: " "))")
    do {
      try guest.run(until: stop)
    } catch {
      say(guest.counts.value.report)
      throw error
    }
    guest.stop()
    say(guest.counts.value.report)
  }

  /// A line of standard output, at once.
  private func say(_ text: String) {
    let line = text + "\n"
    _ = unsafe write(STDOUT_FILENO, line, line.utf8.count)
  }
}

/// SIGTERM and SIGINT, as something that can be waited for.
private enum StopSignal {
  private static let descriptor = Atomic<CInt>(-1)

  /// Signals `stop`, which must live as long as the process.
  static func handle(_ stop: EventDescriptor) {
    descriptor.store(stop.raw, ordering: .releasing)
    for number in [SIGTERM, SIGINT] {
      signal(number) { _ in
        var one: UInt64 = 1
        _ = unsafe write(StopSignal.descriptor.load(ordering: .acquiring), &one, 8)
      }
    }
  }
}

/// What moved, from the guest's point of view.
struct TapCounts {
  var transmitted = 0
  var transmittedBytes = 0
  /// With a gso_type.
  var transmittedLarge = 0
  var received = 0
  var receivedBytes = 0
  var receivedLarge = 0
  var receivedBuffers = 0
  /// Received packets that the tap did not take, and the error number of the last one.
  var refused = 0
  var refusal: CInt = 0
  var kicks = 0
  var sleeps = 0

  mutating func refuse(_ code: CInt) {
    refused &+= 1
    refusal = code
  }

  var report: String {
    """
    {"transmitted": \(transmitted), "transmitted_bytes": \(transmittedBytes), \
    "transmitted_large": \(transmittedLarge), "received": \(received), \
    "received_bytes": \(receivedBytes), "received_large": \(receivedLarge), \
    "received_buffers": \(receivedBuffers), "refused": \(refused), \
    "refusal": "\(refusal == 0 ? "" : Errno(refusal).description)", \
    "kicks": \(kicks), "sleeps": \(sleeps)}
    """
  }
}
