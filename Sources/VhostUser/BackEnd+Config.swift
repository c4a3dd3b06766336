// The configuration space (vhost-user, GET_CONFIG, SET_CONFIG and CONFIG_CHANGE_MSG), for
// front-ends that forward it: the device has the bytes, here is who may ask for which.
import GuestMemory

extension BackEnd {
  /// The only flag: a migrated guest's values are written, not a driver's.
  private static let restores: UInt32 = 1

  /// Answers with as many bytes as were asked for; refused with a header alone.
  func getConfig(_ access: ConfigAccess) throws(VhostUserError) -> Reply {
    guard
      let bytes = device.readConfiguration(at: Int(access.offset), count: access.bytes.count),
      bytes.count == access.bytes.count
    else { throw BackEnd.beyondConfiguration("GET_CONFIG", access) }
    var payload: [UInt8] = []
    payload.append(number: access.offset)
    payload.append(number: UInt32(bytes.count))
    payload.append(number: access.flags)
    return .bytes(payload + bytes)
  }

  func setConfig(_ access: ConfigAccess) throws(VhostUserError) -> Reply {
    guard access.flags <= BackEnd.restores else {
      throw .wrongValue(
        request: "SET_CONFIG", value: UInt64(access.flags), allowed: "a flag of 0 or 1")
    }
    let restoring = access.flags == BackEnd.restores
    guard
      device.writeConfiguration(at: Int(access.offset), access.bytes, restoring: restoring)
    else { throw BackEnd.beyondConfiguration("SET_CONFIG", access) }
    return .acknowledge
  }

  private static func beyondConfiguration(
    _ request: String, _ access: ConfigAccess
  ) -> VhostUserError {
    .configuration(request: request, offset: access.offset, size: access.bytes.count)
  }

  /// Tells the front-end that the device's configuration space is another one now, if it wants to
  /// know.  It reads the space again and interrupts the guest.
  public func configurationChanged() {
    guard protocolFeatures.contains(.config), channel != nil else { return }
    if !channel!.send(.configurationChange) {
      warn("the front-end does not read its channel: a change of configuration is not told")
    }
  }
}
