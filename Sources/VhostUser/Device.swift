// What a device must do for a vhost-user session.  The session configures; queues are started and
// stopped whole, so a running queue is never touched from outside.
public import GuestMemory
public import Virtqueue

public protocol Device: AnyObject {
  /// Features of the running configuration, without the bits that the protocol itself owns
  /// (PROTOCOL_FEATURES): only what is implemented.
  var offeredFeatures: VirtioFeatures { get }
  /// Queue pairs that the device has at most.
  var queuePairCount: Int { get }
  /// Rings: two for each queue pair, and one more if there can be a control queue.
  var ringCount: Int { get }
  /// Protocol features of the running configuration.
  var offeredProtocolFeatures: ProtocolFeatures { get }
  /// Largest MTU that the host port carries, in bytes without the Ethernet header.
  var maximumMTU: Int { get }

  /// The front-end acknowledged features (again): replaces what was negotiated before.
  func negotiate(_ features: VirtioFeatures)
  /// The driver has reset the device, or its front-end has left: nothing that a driver configured
  /// is left.  All rings are stopped.
  func reset()
  /// The session is over: what still waits for its guest must not reach the next one's.  All rings are
  /// stopped.
  func frontEndLeft()
  /// SET_FEATURES came while no ring is set up: another driver may begin, and front-ends that know
  /// no reset say no more than this.
  func driverMayBegin()
  /// Starts a ring with this configuration; it is looked at once, as if kicked, and its call is
  /// written once.  A configuration that cannot run, or a ring that turns out impossible later,
  /// writes the ring's `error` and stays stopped; the connection lives.
  func startQueue(_ config: VirtqueueConfig)
  /// Stops a ring; when this returns nothing touches its memory any more.  Every head that was
  /// taken has been returned.  Answers where the ring stands; nil if it does not run or never could.
  func stopQueue(_ index: Int) -> VringBase?
  /// So many bytes of configuration space, with PROTOCOL_F_CONFIG; nil if it has not as many.
  func readConfiguration(at offset: Int, count: Int) -> [UInt8]?
  /// Writes into configuration space; false, and nothing is changed, if the driver may not.
  /// - Parameter restoring: what was the guest's on another host comes back.
  func writeConfiguration(at offset: Int, _ bytes: [UInt8], restoring: Bool) -> Bool
  /// Around the stops and starts that one request takes: what follows from them for other things
  /// than the rings themselves may wait for the end.
  func willChangeRings()
  func didChangeRings()
  /// Gives every running queue that is behind a vIOMMU other translations; when this returns, none
  /// uses an older one.
  func translate(by table: Translations)
  /// The front-end has no such translation: a chain that waits for it is malformed.
  func refuse(_ miss: TranslationMiss)
  /// What must follow the guest to another host, beside its memory and the rings' indices: what
  /// its driver has configured.  The rings are stopped.
  func saveState() -> [UInt8]
  /// Takes over what `saveState` gave at the old host.  Rings are started after it, and features
  /// negotiated, as if nothing had happened.  A state that is refused has changed nothing.
  func restoreState(_ state: [UInt8]) throws(DeviceStateError)
  /// SEND_RARP: announces the guest at its new host.
  func announce(_ address: (UInt8, UInt8, UInt8, UInt8, UInt8, UInt8))
}

/// A device without configuration space and control queue, and with nothing beside its rings.
extension Device {
  public var ringCount: Int { 2 * queuePairCount }
  public var offeredProtocolFeatures: ProtocolFeatures { .offered }
  public func reset() {}
  public func frontEndLeft() {}
  public func driverMayBegin() {}
  public func readConfiguration(at offset: Int, count: Int) -> [UInt8]? { nil }
  public func writeConfiguration(at offset: Int, _ bytes: [UInt8], restoring: Bool) -> Bool {
    false
  }
  public func willChangeRings() {}
  public func didChangeRings() {}
  public func saveState() -> [UInt8] { [] }
  public func restoreState(_ state: [UInt8]) throws(DeviceStateError) {
    guard state.isEmpty else { throw .device("the device has no state to take over") }
  }
}
