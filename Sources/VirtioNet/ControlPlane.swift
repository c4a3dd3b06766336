// What front-ends that forward configuration space and control queue get at: the state that a
// driver configures, the ring that it does so by, and the configuration space that shows it.
//
// It belongs to the device and outlives its rings: a ring that stops and starts again (a new memory
// table, a guest that is paused) finds everything as it was; a reset puts it back.
//
// Before the control queue has run, nothing of it counts: a front-end may as well serve the control
// queue of its guest by itself, and then it alone says which rings are in use.
public import Packet
import GuestMemory
import Linux
import Virtqueue

/// What a configuration space and a control queue begin with.
public struct ControlOptions: Sendable {
  /// The guest's address, until its driver says otherwise.
  public var address: MACAddress
  /// The only addresses that a guest may take, because packets to others do not come here; empty:
  /// any.
  public var steered: [MACAddress] = []
  public var hasCarrier = true
  /// In Mbit/s; nil: unknown.
  public var speed: UInt32?
  public var isFullDuplex: Bool?

  public init(address: MACAddress) { self.address = address }
}

final class ControlPlane {
  let options: ControlOptions
  var state: ControlState
  /// Since the last reset.
  var hasRun = false
  var hasCarrier: Bool
  var features: VirtioFeatures = []
  /// Configuration space is another one than the front-end has read.
  var hasNews = false

  /// Times that the ring was found impossible.
  var ringFaults = 0

  private(set) var queue: ControlQueue?
  /// What makes the control thread look: the ring's kick, and `again`.
  private let epoll: EpollSet
  private let again: EventDescriptor

  init(_ options: ControlOptions) throws(Errno) {
    self.options = options
    state = ControlState(address: options.address)
    hasCarrier = options.hasCarrier
    epoll = try EpollSet()
    again = try EventDescriptor()
    try epoll.add(again.raw, .readable, tag: 0)
  }

  static let offeredFeatures: VirtioFeatures = [
    .mac, .status, .ctrlVq, .ctrlRx, .ctrlVlan, .ctrlRxExtra, .ctrlMacAddr, .speedDuplex,
  ]

  /// The number of the control queue, behind those that the driver may use (virtio 1.3, 5.1.2);
  /// nil: the driver knows of none.
  static func ring(features: VirtioFeatures, queuePairs: Int) -> Int? {
    guard features.contains(.ctrlVq) else { return nil }
    return features.contains(.mq) ? 2 * queuePairs : 2
  }

  /// Queue pairs in use, of so many.
  func activePairs(of count: Int) -> Int {
    hasRun && features.contains(.mq) ? min(state.queuePairs, count) : count
  }

  /// What the data path must filter.
  var receiveMode: ReceiveMode {
    var mode = state.receive
    mode.filtersAddresses = hasRun && features.contains(.ctrlRx)
    mode.filtersVLANs = hasRun && features.contains(.ctrlVlan)
    return mode
  }

  /// The offloads on receive that the driver takes, of those that it negotiated.  What it chose on
  /// another host counts at once: the rings of packets may start before the control queue.
  var guestOffloads: VirtioFeatures {
    features.contains(.ctrlGuestOffloads) ? state.guestOffloads ?? .guestOffloads : .guestOffloads
  }

  func configuration(queuePairs: Int, portMTU: Int) -> NetConfiguration {
    NetConfiguration(
      address: state.address, isLinkUp: hasCarrier,
      isToAnnounce: state.isToAnnounce && features.contains(.guestAnnounce),
      queuePairs: queuePairs, mtu: portMTU, speed: options.speed ?? .max,
      duplex: options.isFullDuplex.map { $0 ? 1 : 0 } ?? 0xff)
  }

  func reset() {
    state = ControlState(address: options.address)
    hasRun = false
  }

  /// Whether a guest may have this address.
  func mayTake(_ address: MACAddress) -> Bool {
    options.steered.isEmpty || options.steered.contains(address)
  }

  // MARK: The ring

  /// For an epoll set: readable while `serve` has something to do.
  var descriptor: Int32 { epoll.raw }

  /// - Returns: why it cannot run.
  func start(_ config: VirtqueueConfig) -> String? {
    let queue: ControlQueue
    do throws(QueueFault) { queue = try ControlQueue(config) } catch { return "\(error)" }
    if let kick = queue.kickDescriptor {
      // Each change once, and never read: a descriptor that is readable for ever must not keep the
      // thread busy, and one that is not, though it said so, must not make it wait.
      do throws(Errno) { try epoll.add(kick, [.readable, .edge], tag: 1) } catch {
        return "its kick descriptor cannot be watched: \(error)"
      }
    }
    self.queue = queue
    hasRun = true
    // What waits already is looked at as if it was kicked.
    again.signal()
    return nil
  }

  func stop() -> VringBase? {
    guard let queue else { return nil }
    if let kick = queue.kickDescriptor { epoll.remove(kick) }
    self.queue = nil
    return queue.base
  }

  func translate(by table: Translations) {
    guard let queue else { return }
    queue.translate(by: table)
    again.signal()
  }

  func refuse(_ miss: TranslationMiss) {
    guard let queue else { return }
    queue.refuse(miss)
    again.signal()
  }

  /// Without a kick descriptor somebody must look from time to time.
  var mustBePolled: Bool { queue.map { $0.kickDescriptor == nil } ?? false }

  func serve(
    perform: (ControlCommand) -> Bool, refused: (ControlCommand.Refusal, [UInt8]) -> Void
  ) {
    // Takes the kick.
    epoll.wait(milliseconds: 0) { _, _ in }
    again.drain()
    guard let queue else { return }
    if queue.serve(perform: perform, refused: refused) { again.signal() }
  }
}
