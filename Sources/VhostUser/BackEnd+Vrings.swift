// The SET_VRING family.  Each handler finds its ring stopped; what it says takes effect when the
// ring starts again, which is right after it if the ring is complete.
import Linux
import Virtqueue

extension BackEnd {
  private static let largestRing: UInt32 = 32768

  /// Takes a ring back from the device, with its index.
  func stop(_ ring: Int) {
    guard rings[ring].isStarted else { return }
    rings[ring].isStarted = false
    // It keeps the memory that it is in.
    rings[ring].mapping = nil
    if let base = device.stopQueue(ring) { rings[ring].base = base }
  }

  /// Gives a ring to the device, if it is known well enough to run.
  func startIfComplete(_ ring: Int) {
    guard !rings[ring].isStarted, postcopy?.awaitsAcknowledgement != true,
      var config = rings[ring].config(
        features: features.subtracting(.protocolFeatures), memory: memory, inflight: inflight,
        inband: inband?.rings[ring])
    else { return }
    if isTranslating {
      guard let translation = translation(for: config) else { return }
      config.translation = translation
    }
    rings[ring].mapping = config.translation?.ring
    config.log = ringLog(ring)
    rings[ring].isStarted = true
    deviceState.isRestored = false
    device.startQueue(config)
  }

  func setSize(_ ring: Int, _ size: UInt32) throws(VhostUserError) -> Reply {
    let packed = features.contains(.ringPacked)
    guard size > 0, size <= BackEnd.largestRing, packed || size & (size - 1) == 0 else {
      throw .wrongValue(
        request: "SET_VRING_NUM", value: UInt64(size),
        allowed: (packed ? "1 to " : "a power of two from 1 to ") + "\(BackEnd.largestRing)")
    }
    rings[ring].size = Int(size)
    return .acknowledge
  }

  func setAddresses(_ ring: Int, _ addresses: VringAddresses) -> Reply {
    rings[ring].addresses = addresses
    return .acknowledge
  }

  func setBase(_ ring: Int, _ base: UInt32) throws(VhostUserError) -> Reply {
    guard features.contains(.ringPacked) || base <= UInt16.max else {
      throw .wrongValue(
        request: "SET_VRING_BASE", value: UInt64(base), allowed: "an index of 0 to 65535")
    }
    rings[ring].base = VringBase(rawValue: base)
    return .acknowledge
  }

  /// GET_VRING_BASE stops the ring for good: it starts again with the next SET_VRING_KICK.
  func takeBase(_ ring: Int) -> Reply {
    rings[ring].kick = nil
    // The front-end tells no changes to a device that stands still.
    if !rings.contains(where: { $0.kick != nil }) { forgetTranslations() }
    let base = rings[ring].base ?? .start(for: features)
    return .vringState(VringState(index: UInt32(ring), number: base.rawValue))
  }

  func setKick(_ ring: Int, _ event: EventDescriptor?) -> Reply {
    rings[ring].kick = event.map(Kick.event) ?? .polling
    return .acknowledge
  }

  func setCall(_ ring: Int, _ event: EventDescriptor?) -> Reply {
    rings[ring].call = event
    rings[ring].isCallPolled = event == nil
    return .acknowledge
  }

  func setError(_ ring: Int, _ event: EventDescriptor?) -> Reply {
    rings[ring].error = event
    return .acknowledge
  }

  func setEnabled(_ ring: Int, _ enabled: UInt32) throws(VhostUserError) -> Reply {
    guard enabled <= 1 else {
      throw .wrongValue(request: "SET_VRING_ENABLE", value: UInt64(enabled), allowed: "0 or 1")
    }
    rings[ring].isEnabled = enabled == 1
    return .acknowledge
  }
}
