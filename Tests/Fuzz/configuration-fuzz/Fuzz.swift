// Fuzzes what configures the device: commands of the control queue, configuration space, and the state
// that comes from another host.
//
// The first byte chooses.  Pure: the bytes are one command, or one saved state, and what is made of
// them is compared with the specification.  A device: the bytes are a list of steps, taken as a session
// takes them, on a device whose worker runs; after each its state must be one that can be saved and
// restored, and a step that is refused has changed nothing.
import Fuzzing
import VhostUser
import VirtioNet
import Virtqueue

/// What inputs must come to.
enum Goal: Int, CaseIterable {
  case receiveMode, tables, address, vlan, announced, queuePairs, guestOffloads
  case unknown, wrongSize, wrongValue
  case stateRead, stateWithOffloads, stateRefused, envelopeRead, envelopeRefused
  case commandDone, commandRefused, commandUnanswered, ringFault
  case addressWritten, writeRefused, configurationRead, readRefused
  case restored, restoreRefused, reset
}

let goals = Goals(Goal.self)

/// A saved state is what saving it gives, or nothing.
private func runState(_ bytes: [UInt8]) {
  guard let state = ControlState(decoding: bytes) else { return goals.reach(Goal.stateRefused) }
  require(state.encoded == bytes, "a state that is saved as another")
  goals.reach(state.guestOffloads == nil ? Goal.stateRead : .stateWithOffloads)
}

/// The envelope of a state, with its sum as it should be if the input says so.
private func runEnvelope(_ bytes: [UInt8], sealed: Bool) {
  var bytes = bytes
  if sealed, bytes.count >= 8 {
    let sum = bytes.dropLast(8).reduce(0xcbf2_9ce4_8422_2325 as UInt64) {
      ($0 ^ UInt64($1)) &* 0x100_0000_01b3
    }
    for i in 0..<8 { bytes[bytes.count - 8 + i] = UInt8(truncatingIfNeeded: sum >> UInt64(8 * i)) }
  }
  do throws(DeviceStateError) {
    let state = try DeviceState(bytes)
    require(state.bytes == bytes, "an envelope that is written as another")
    goals.reach(Goal.envelopeRead)
    runState(state.device)
  } catch {
    require(!error.description.isEmpty, "a refusal without a word")
    goals.reach(Goal.envelopeRefused)
  }
}

@main struct Fuzz {
  static func main() {
    unsafe fuzz(goals) {
      var input = unsafe Input($0)
      switch input.byte() & 3 {
      case 0: runCommand(&input)
      case 1:
        let choice = input.byte()
        let bytes = input.bytes(.max)
        if choice & 2 == 0 { runState(bytes) } else { runEnvelope(bytes, sealed: choice & 1 == 1) }
      default: runDevice(&input)
      }
    }
  }
}
