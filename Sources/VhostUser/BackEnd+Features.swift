// Negotiation, reset, and what concerns the device as a whole.
import Linux
import Virtqueue

extension BackEnd {
  /// Smallest MTU of Ethernet that carries IPv4 (RFC 791).
  private static let smallestMTU = 68

  private var offered: VirtioFeatures {
    let able = device.offeredFeatures.union(.protocolFeatures)
    return iotlb == nil ? able.subtracting(.accessPlatform) : able
  }

  /// GET_QUEUE_NUM.  QEMU and DPDK take the number for queue pairs of a net device.  Front-ends
  /// that forward a control queue, or are made like those (crosvm, cloud-hypervisor), count
  /// virtqueues; to the others the larger number only means a later refusal.
  var queueNumber: Int {
    device.ringCount > 2 * device.queuePairCount ? device.ringCount : device.queuePairCount
  }

  func getFeatures() -> Reply { .number(offered.rawValue) }

  /// Replaces what was negotiated: a guest that boots again with another driver drops features.
  func setFeatures(_ value: UInt64) throws(VhostUserError) -> Reply {
    let wanted = VirtioFeatures(rawValue: value)
    try checkLog(wanted)
    let unknown = wanted.subtracting(offered)
    if !unknown.isEmpty {
      warn(
        "SET_FEATURES: not offered, ignored: \(unknown.namesOfBits.joined(separator: " "))")
    }
    // What was taken over from another host is the driver's that goes on here.
    if rings.allSatisfy({ $0.kick == nil }), !deviceState.isRestored { device.driverMayBegin() }
    negotiate(wanted.intersection(offered))
    forgetTranslations()
    // Without PROTOCOL_FEATURES there is no SET_VRING_ENABLE.
    if !features.contains(.protocolFeatures) {
      for i in rings.indices { rings[i].isEnabled = true }
    }
    return .acknowledge
  }

  /// The device hears of changes only, and of the driver's features only; the rings are stopped.
  func negotiate(_ negotiated: VirtioFeatures) {
    if features.contains(.logAll), !negotiated.contains(.logAll) { dropLog() }
    let heard = features.subtracting(.protocolOwned)
    features = negotiated
    let driver = negotiated.subtracting(.protocolOwned)
    if driver != heard { device.negotiate(driver) }
  }

  func setProtocolFeatures(_ value: UInt64) throws(VhostUserError) -> Reply {
    let wanted = ProtocolFeatures(rawValue: value)
    guard !wanted.contains(.inbandNotifications) || wanted.contains([.backendReq, .replyAck])
    else { throw .inbandAlone }
    let unknown = wanted.subtracting(device.offeredProtocolFeatures)
    if !unknown.isEmpty {
      warn(
        "SET_PROTOCOL_FEATURES: not offered, ignored: "
          + unknown.namesOfBits.joined(separator: " "))
    }
    protocolFeatures = wanted.intersection(device.offeredProtocolFeatures)
    // It says how an in-flight area may be left, so there has to be one.
    if !protocolFeatures.contains(.inflightShmfd) {
      protocolFeatures.remove(.getVringBaseInflight)
    }
    try switchInbandNotifications()
    return .acknowledge
  }

  /// RESET_OWNER, which front-ends no longer send, has meant more than one thing; this is what the
  /// specification recommends.
  func disableRings() -> Reply {
    for i in rings.indices { rings[i].isEnabled = false }
    return .acknowledge
  }

  /// Back to the state before the driver came.  The memory table stays: with CONFIGURE_MEM_SLOTS
  /// QEMU sends differences to what it sent before, and knows of no reset in between.
  func resetDevice() -> Reply {
    for i in rings.indices {
      stop(i)
      rings[i].reset()
    }
    inflight?.clear()
    negotiate([])
    device.reset()
    forgetTranslations()
    iotlb?.isInUse = false
    status = 0
    return .acknowledge
  }

  func setStatus(_ value: UInt64) throws(VhostUserError) -> Reply {
    guard let status = UInt8(exactly: value) else {
      throw .wrongValue(request: "SET_STATUS", value: value, allowed: "a status of 0 to 255")
    }
    if status == 0 { return resetDevice() }
    self.status = status
    return .acknowledge
  }

  func setMTU(_ mtu: UInt64) throws(VhostUserError) -> Reply {
    guard mtu >= BackEnd.smallestMTU else {
      throw .wrongValue(
        request: "NET_SET_MTU", value: mtu, allowed: "at least \(BackEnd.smallestMTU)")
    }
    guard mtu <= UInt64(max(0, device.maximumMTU)) else {
      throw .mtuTooLarge(mtu: mtu, largest: device.maximumMTU)
    }
    return .acknowledge
  }

  /// The first six bytes of the payload are the guest's address.
  func announce(_ address: UInt64) -> Reply {
    func byte(_ i: UInt64) -> UInt8 { UInt8(truncatingIfNeeded: address >> (8 * i)) }
    device.announce((byte(0), byte(1), byte(2), byte(3), byte(4), byte(5)))
    return .acknowledge
  }

  func setChannel(_ sockets: inout ReceivedDescriptors) throws(VhostUserError) -> Reply {
    if let socket = try take(.streamSocket, of: &sockets, request: "SET_BACKEND_REQ_FD") {
      try takeChannel(BackEndChannel(adopting: socket))
    }
    return .acknowledge
  }
}

extension VirtioFeatures {
  /// Between front-end and back-end only.
  fileprivate static let protocolOwned: VirtioFeatures = [.protocolFeatures, .logAll]
}
