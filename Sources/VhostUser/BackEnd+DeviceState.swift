// The transfer of a device state over a descriptor of the front-end's (SET_DEVICE_STATE_FD,
// CHECK_DEVICE_STATE).
//
// A state fits a pipe, so nothing here waits: it is written at once when it is asked for, and read
// when the front-end says that it has written all of it.
import Linux
import Virtqueue

/// A transfer under way.
struct DeviceStateChannel: ~Copyable {
  /// A state comes from here.
  var source: PeerPipe?
  /// How the last transfer went; nil: none was begun, or its end is not known yet.
  var result: Result<Void, DeviceStateError>?
  /// A state was loaded, and no ring has run since.
  var isRestored = false
}

extension BackEnd {
  private static let noDescriptor: UInt64 = 0x100

  func beginStateTransfer(
    _ transfer: DeviceStateTransfer, _ files: inout ReceivedDescriptors
  ) throws(VhostUserError) -> Reply {
    let request = "SET_DEVICE_STATE_FD"
    guard transfer.direction <= 1, transfer.phase == 0 else {
      throw .wrongValue(
        request: request, value: UInt64(transfer.phase) << 32 | UInt64(transfer.direction),
        allowed: "direction 0 (save) or 1 (load), in phase 0 (stopped)")
    }
    guard !rings.contains(where: \.isStarted) else { throw .ringsRun(request: request) }
    guard let descriptor = try take(.pipe, of: &files, request: request) else {
      throw .wrongDescriptorCount(request: request, count: 0, expected: "1")
    }
    let file = PeerPipe(adopting: descriptor)
    do throws(Errno) { try file.makeNonBlocking() } catch {
      throw .deviceState(request: request, .channel("\(error)"))
    }
    if transfer.direction == 0 {
      deviceState.source = nil
      deviceState.result = save(to: file)
    } else {
      deviceState.result = nil
      deviceState.source = consume file
    }
    // The front-end's descriptor is used, none comes back.
    return .number(BackEnd.noDescriptor)
  }

  func checkStateTransfer() throws(VhostUserError) -> Reply {
    let request = "CHECK_DEVICE_STATE"
    // They may have been started since the transfer was begun.
    guard deviceState.source == nil || !rings.contains(where: \.isStarted) else {
      deviceState.source = nil
      throw .ringsRun(request: request)
    }
    if let source = deviceState.source.take() { deviceState.result = load(from: source) }
    switch deviceState.result.take() {
    case .success: return .number(0)
    case .failure(let error): throw .deviceState(request: request, error)
    case nil: throw .deviceState(request: request, .channel("no transfer was begun"))
    }
  }

  /// The descriptor is closed afterwards, which is the end of the state.
  private func save(to file: consuming PeerPipe) -> Result<Void, DeviceStateError> {
    let bytes = DeviceState(
      queuePairs: device.queuePairCount, features: features, device: device.saveState()
    ).bytes
    guard bytes.count <= DeviceState.maximumSize else {
      return .failure(.tooLong(limit: DeviceState.maximumSize))
    }
    switch file.write(bytes) {
    case .done(bytes.count): return .success(())
    case .done, .wouldBlock: return .failure(.channel("has no room for \(bytes.count) bytes"))
    case .failed(let errno): return .failure(.channel("\(errno)"))
    }
  }

  private func load(from file: consuming PeerPipe) -> Result<Void, DeviceStateError> {
    var bytes: [UInt8] = []
    var buffer = [UInt8](repeating: 0, count: DeviceState.maximumSize + 1)
    reading: while true {
      switch file.read(into: &buffer) {
      case .done(0): break reading
      case .done(let count): bytes += buffer[..<count]
      case .wouldBlock:
        return .failure(.channel("the front-end has not closed it after \(bytes.count) bytes"))
      case .failed(let errno): return .failure(.channel("\(errno)"))
      }
      guard bytes.count <= DeviceState.maximumSize else {
        return .failure(.tooLong(limit: DeviceState.maximumSize))
      }
    }
    do throws(DeviceStateError) {
      try restore(DeviceState(bytes))
      return .success(())
    } catch { return .failure(error) }
  }

  private func restore(_ state: DeviceState) throws(DeviceStateError) {
    guard state.queuePairs <= device.queuePairCount else {
      throw .queuePairs(saved: state.queuePairs, here: device.queuePairCount)
    }
    let missing = state.features.subtracting(device.offeredFeatures.union(.protocolFeatures))
    guard missing.isEmpty else { throw .features(missing: missing.namesOfBits) }
    try device.restoreState(state.device)
    deviceState.isRestored = true
  }
}
