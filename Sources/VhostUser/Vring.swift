// One ring as the control plane knows it: what the front-end said of it, and whether the device
// has it.
//
// The specification lets a ring start when its kick descriptor becomes readable.  Here it starts
// with SET_VRING_KICK, as soon as size and addresses are known too, as in every back-end that is
// in use: the device looks at a ring once when it starts, so the kick that would have started it
// is not lost, and neither is one that was written to a predecessor that died (its eventfd may
// have been read by then, and a strict back-end would wait for a second kick for ever).  Without a
// kick nothing is in the ring, and looking at it finds nothing.
//
// Enabled and started are independent ("Ring states"): a disabled ring that is started discards
// what the guest transmits.
import GuestMemory
import Linux
import Virtqueue

/// How the driver says that there is something in a ring.
enum Kick {
  case event(EventDescriptor)
  /// It does not: the device polls.
  case polling
}

struct Vring {
  let index: Int
  /// Entries; 0 until the front-end has said.
  var size = 0
  var addresses: VringAddresses?
  /// Nil: not said yet; the ring begins where a fresh one of its format does.
  var base: VringBase?
  /// Nil: no SET_VRING_KICK since the ring was stopped for good.
  var kick: Kick?
  var call: EventDescriptor?
  var error: EventDescriptor?
  /// SET_VRING_CALL without a descriptor: the driver polls, whatever else was negotiated.
  var isCallPolled = false
  var isEnabled = false
  /// Behind a vIOMMU: where the ring is that the device has.
  var mapping: RingMapping?
  /// The device has it: `startQueue` was called, `stopQueue` not yet.
  var isStarted = false

  init(index: Int) { self.index = index }

  /// What the device needs to run the ring; nil while the front-end has not said enough.
  func config(
    features: VirtioFeatures, memory: GuestMemory, inflight: InflightArea? = nil,
    inband: InbandNotifications.Ring? = nil
  ) -> VirtqueueConfig? {
    guard size > 0, let addresses, let kick else { return nil }
    var event: EventDescriptor?
    if case .event(let descriptor) = kick { event = descriptor }
    return VirtqueueConfig(
      index: index, size: size, descriptorTable: addresses.descriptorTable,
      availRing: addresses.availRing, usedRing: addresses.usedRing,
      base: base ?? .start(for: features), isEnabled: isEnabled, kick: event,
      call: call ?? (isCallPolled ? nil : inband?.call), error: error ?? inband?.error,
      features: features, memory: memory, inflight: inflight)
  }

  /// As after the connection was made, but for the call and error descriptors.  They are the
  /// front-end's wiring and not the device's state: QEMU sends the error descriptor once for each
  /// connection and does not repeat it after a reset.
  mutating func reset() {
    size = 0
    addresses = nil
    base = nil
    kick = nil
    isEnabled = false
  }
}
