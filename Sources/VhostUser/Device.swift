// What a device must do for a vhost-user session.  The session configures; queues are started and
// stopped whole, so a running queue is never touched from outside.
public import Virtqueue

public protocol Device: AnyObject {
  /// Features of the running configuration, without the bits that the protocol itself owns
  /// (PROTOCOL_FEATURES): only what is implemented.
  var offeredFeatures: VirtioFeatures { get }
  /// Queue pairs; the device has twice as many rings (GET_QUEUE_NUM counts pairs for net).
  var queuePairCount: Int { get }
  /// Largest MTU that the host port carries, in bytes without the Ethernet header.
  var maximumMTU: Int { get }

  /// The front-end acknowledged features (again): replaces what was negotiated before.
  func negotiate(_ features: VirtioFeatures)
  /// Starts a ring with this configuration; it is looked at once, as if kicked, and its call is
  /// written once.  A configuration that cannot run, or a ring that turns out impossible later,
  /// writes the ring's `error` and stays stopped; the connection lives.
  func startQueue(_ config: VirtqueueConfig)
  /// Stops a ring; when this returns nothing touches its memory any more.  Every head that was
  /// taken has been returned.  Answers where the ring stands; nil if it does not run or never could.
  func stopQueue(_ index: Int) -> VringBase?
  /// SEND_RARP: announces the guest at its new host.
  func announce(_ address: (UInt8, UInt8, UInt8, UInt8, UInt8, UInt8))
}
