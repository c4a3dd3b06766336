// The part of configuration-fuzz for single commands: each is compared with what the specification says
// of it (virtio 1.3, 5.1.6.5), written here once more and as plainly as possible.
import Fuzzing
import Packet
import VirtioNet
import Virtqueue

private let commandFeatures: [VirtioFeatures] = [
  .ctrlRx, .ctrlRxExtra, .ctrlVlan, .ctrlMacAddr, .guestAnnounce, .mq,
  [.ctrlGuestOffloads, .guestCsum, .guestTSO4], .guestTSO6,
]

/// Offloads on receive, which a driver may switch off.
private let switchable: VirtioFeatures = [
  .guestCsum, .guestTSO4, .guestTSO6, .guestECN, .guestUSO4, .guestUSO6,
]

/// Features that the bits of a byte stand for.
func features(_ choice: UInt8) -> VirtioFeatures {
  commandFeatures.indices.reduce([]) {
    choice >> UInt8($1) & 1 == 1 ? $0.union(commandFeatures[$1]) : $0
  }
}

func runCommand(_ input: inout Input) {
  let features = features(input.byte())
  let bytes = input.bytes(.max)
  let isOne = isCommand(bytes, features)
  do throws(ControlCommand.Refusal) {
    let command = try ControlCommand(bytes, features: features)
    require(isOne, "no command, but \(command)")
    check(command, bytes)
  } catch {
    require(!isOne, "a command, but \(error)")
    require(!error.description.isEmpty, "a refusal without a word")
    switch error {
    case .unknown: goals.reach(Goal.unknown)
    case .wrongSize: goals.reach(Goal.wrongSize)
    case .wrongValue: goals.reach(Goal.wrongValue)
    }
  }
}

/// Whether the bytes are a command that a device with these features carries out.
func isCommand(_ bytes: [UInt8], _ features: VirtioFeatures) -> Bool {
  guard bytes.count >= 2 else { return false }
  let data = bytes[2...]
  let number = data.prefix(8).reversed().reduce(UInt64(0)) { $0 << 8 | UInt64($1) }
  switch (bytes[0], bytes[1]) {
  case (0, 0...1): return features.contains(.ctrlRx) && data.count == 1 && number <= 1
  case (0, 2...5): return features.contains(.ctrlRxExtra) && data.count == 1 && number <= 1
  case (1, 0): return features.contains(.ctrlRx) && areTables(Array(data))
  case (1, 1):
    return features.contains(.ctrlMacAddr) && data.count == 6 && number != 0 && number & 1 == 0
  case (2, 0...1): return features.contains(.ctrlVlan) && data.count == 2 && number < 4096
  case (3, 0): return features.contains(.guestAnnounce) && data.isEmpty
  case (4, 0): return features.contains(.mq) && data.count == 2
  case (5, 0):
    return features.contains(.ctrlGuestOffloads) && data.count == 8
      && number & ~features.intersection(switchable).rawValue == 0
  default: return false
  }
}

private func areTables(_ data: [UInt8]) -> Bool {
  var offset = 0
  for wantsGroup in [UInt8(0), 1] {
    guard offset + 4 <= data.count else { return false }
    let count = data[offset..<offset + 4].reversed().reduce(0) { $0 << 8 | Int($1) }
    offset += 4
    guard offset + 6 * count <= data.count else { return false }
    for i in 0..<count where data[offset + 6 * i] & 1 != wantsGroup { return false }
    offset += 6 * count
  }
  return offset == data.count
}

private func check(_ command: ControlCommand, _ bytes: [UInt8]) {
  switch command {
  case .receive(let chosen, let isOn):
    require(chosen.rawValue == bytes[1] && isOn == (bytes[2] == 1), "another switch")
    goals.reach(Goal.receiveMode)
  case .tables(let unicast, let multicast):
    let addresses = (unicast + multicast).flatMap(\.bytes)
    require(addresses.count == bytes.count - 10, "other addresses")
    goals.reach(Goal.tables)
  case .address(let address):
    require(address.bytes == Array(bytes[2...]), "another address")
    goals.reach(Goal.address)
  case .vlan(let vlan, let isWanted):
    require(vlan == UInt16(bytes[2]) | UInt16(bytes[3]) << 8, "another VLAN")
    require(isWanted == (bytes[1] == 0), "the other way round")
    goals.reach(Goal.vlan)
  case .announced: goals.reach(Goal.announced)
  case .queuePairs(let count):
    require(count == Int(bytes[2]) | Int(bytes[3]) << 8, "other queue pairs")
    goals.reach(Goal.queuePairs)
  case .guestOffloads: goals.reach(Goal.guestOffloads)
  }
}
