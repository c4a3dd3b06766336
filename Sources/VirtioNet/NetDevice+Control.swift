// The device as a front-end sees it that forwards configuration space and control queue.
import Linux
import Packet
public import VhostUser
import Virtqueue

extension NetDevice {
  // MARK: Configuration space

  public var ringCount: Int { 2 * queuePairCount + (control == nil ? 0 : 1) }

  public var offeredProtocolFeatures: ProtocolFeatures {
    var features = ProtocolFeatures.offered
    if control != nil { features.insert(.config) }
    if hasPostcopy { features.formUnion(.postcopy) }
    return features
  }

  private var configuration: NetConfiguration? {
    control?.configuration(queuePairs: queuePairCount, portMTU: maximumMTU)
  }

  public func readConfiguration(at offset: Int, count: Int) -> [UInt8]? {
    guard let bytes = configuration?.bytes, count > 0, count <= bytes.count,
      offset <= bytes.count - count
    else { return nil }
    return Array(bytes[offset..<offset + count])
  }

  /// The address only, and only for a driver that cannot change it by a command, or for one that
  /// comes from another host; what else comes with it is this host's own.
  public func writeConfiguration(at offset: Int, _ bytes: [UInt8], restoring: Bool) -> Bool {
    guard let control, !bytes.isEmpty else { return false }
    if !restoring {
      guard !control.features.contains(.version1),
        offset + bytes.count <= NetConfiguration.addressSize
      else { return false }
    } else if offset + bytes.count > NetConfiguration.size {
      return false
    }
    var wanted = control.state.address.bytes
    for (i, byte) in bytes.enumerated() where offset + i < NetConfiguration.addressSize {
      wanted[offset + i] = byte
    }
    guard let address = MACAddress(bytes: wanted) else { return false }
    return setAddress(address)
  }

  // MARK: What a driver configured

  /// To be saved when the guest moves to another host; nil without a control queue.
  public var controlState: ControlState? { control?.state }

  /// Puts back what was saved.  The driver is asked to announce itself at its new place.
  /// - Returns: false, and nothing is changed, if it does not fit this device.
  public func restore(_ state: ControlState) -> Bool {
    guard let control, state.queuePairs <= queuePairCount, control.mayTake(state.address) else {
      return false
    }
    control.state = state
    control.state.isToAnnounce = true
    control.hasNews = true
    applyControlState()
    return true
  }

  public func reset() {
    guard let control else { return }
    control.reset()
    applyControlState()
  }

  /// A front-end that knows no reset begins the next driver by SET_FEATURES.
  public func driverMayBegin() {
    if control?.hasRun == true { reset() }
  }

  /// All of it takes effect: when this returns the workers filter by it.
  private func applyControlState() {
    guard let control else { return }
    setReceiveMode(control.receiveMode)
    setGuestOffloads(control.guestOffloads)
    useQueuePairs(control.activePairs(of: queuePairCount))
  }

  // MARK: What happens on the host

  /// The port has or has lost its carrier.
  public func setCarrier(_ hasCarrier: Bool) {
    guard let control, control.hasCarrier != hasCarrier else { return }
    control.hasCarrier = hasCarrier
    control.hasNews = true
  }

  /// Whether configuration space has changed since this was asked, by anything but the driver.
  public func takeConfigurationNews() -> Bool {
    defer { control?.hasNews = false }
    return control?.hasNews ?? false
  }

  /// The guest has moved here: its driver knows better than anybody which addresses it uses.
  func askToAnnounce() {
    guard let control, control.queue != nil, control.features.contains(.guestAnnounce) else {
      return
    }
    control.state.isToAnnounce = true
    control.hasNews = true
  }

  // MARK: The control queue

  /// For an epoll set: readable while `serveControlQueue` has something to do; nil without a
  /// control queue.
  public var controlDescriptor: Int32? { control?.descriptor }

  /// Nothing says when there is something to do: `serveControlQueue` is to be called now and then.
  public var mustPollControlQueue: Bool { control?.mustBePolled ?? false }

  func isControlRing(_ config: VirtqueueConfig) -> Bool {
    control != nil
      && ControlPlane.ring(features: config.features, queuePairs: queuePairCount) == config.index
  }

  func startControlQueue(_ config: VirtqueueConfig) {
    guard let control else { return }
    if let reason = control.start(config) {
      control.ringFaults += 1
      config.error?.signal()
      log("ring \(config.index), the control queue, cannot be started: \(reason)")
      return
    }
    if control.state.isToAnnounce { control.hasNews = true }
    applyControlState()
  }

  public func serveControlQueue() {
    guard let control else { return }
    control.serve(
      perform: { self.perform($0) },
      refused: { refusal, bytes in
        let name = bytes.count < 2 ? "" : " of class \(bytes[0]), number \(bytes[1])"
        self.log("control queue: a command\(name) is refused: \(refusal)")
      })
    if let fault = control.queue?.takeFault() {
      control.ringFaults += 1
      log("the control queue stopped: \(fault); the guest's driver must reset the device")
    }
  }

  /// - Returns: whether it was carried out.
  private func perform(_ command: ControlCommand) -> Bool {
    guard let control else { return false }
    switch command {
    case .receive(let chosen, let isOn): control.state.receive.set(chosen, isOn)
    case .tables(let unicast, let multicast):
      control.state.receive.setTables(unicast: unicast, multicast: multicast)
    case .vlan(let vlan, let isWanted): control.state.receive.setVLAN(vlan, isWanted)
    case .address(let address): return setAddress(address)
    case .announced:
      control.state.isToAnnounce = false
      return true
    case .queuePairs(let count):
      guard count >= 1, count <= queuePairCount else {
        log("control queue: \(count) queue pairs are refused, there are 1 to \(queuePairCount)")
        return false
      }
      control.state.queuePairs = count
      useQueuePairs(control.activePairs(of: queuePairCount))
      return true
    case .guestOffloads(let offloads):
      control.state.guestOffloads = offloads
      setGuestOffloads(control.guestOffloads)
      return true
    }
    setReceiveMode(control.receiveMode)
    return true
  }

  private func setAddress(_ address: MACAddress) -> Bool {
    guard let control, address.isAssignable else { return false }
    guard control.mayTake(address) else {
      let steered = control.options.steered.map(\.description).joined(separator: ", ")
      log(
        "the guest may not take the address \(address): only packets to \(steered) are its own; "
          + "start with --mac=\(address) too, or with --dedicated")
      return false
    }
    control.state.address = address
    setReceiveMode(control.receiveMode)
    return true
  }
}

extension ControlCommand.Refusal: CustomStringConvertible {
  package var description: String {
    switch self {
    case .unknown: "there is none, or its feature was not negotiated"
    case .wrongSize: "it has the wrong size"
    case .wrongValue: "a value in it is out of range"
    }
  }
}

// MARK: Migration

extension NetDevice {
  public func saveState() -> [UInt8] { controlState?.encoded ?? [] }

  public func restoreState(_ state: [UInt8]) throws(DeviceStateError) {
    if state.isEmpty { return }
    guard let decoded = ControlState(decoding: state) else {
      throw .device("what the driver configured there is not to be read here")
    }
    guard restore(decoded) else {
      throw .device(
        "what the driver configured does not fit this device; start it with the same "
          + "--control-queue, --mac and --queues")
    }
  }
}
