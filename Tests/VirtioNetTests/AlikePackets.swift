// What may be merged, in random order, with everything that may happen to it on the way.
import GuestDriver
import Virtqueue

extension VirtioFeatures {
  /// Of a driver that takes all that is merged.
  static let merging: VirtioFeatures = [
    .version1, .mrgRxbuf, .ringIndirectDesc, .guestCsum, .guestTSO4, .guestTSO6, .guestECN,
    .guestUSO4, .guestUSO6,
  ]
}

func random(_ count: Int, _ generator: inout SeededGenerator) -> [UInt8] {
  (0..<count).map { _ in UInt8.random(in: 0...255, using: &generator) }
}

/// Packets from the wire that are much alike, with everything that may happen to them.
struct AlikePackets {
  var flows: [WireFlow] = []
  var sizes: [Int] = []
  var damaged = 0
  var generator: SeededGenerator

  init(seed: UInt64, kinds: [WireFlow.Kind], flowCount: Int) {
    generator = SeededGenerator(seed: seed)
    for number in 0..<flowCount {
      var flow = WireFlow(
        kinds.randomElement(using: &generator)!, number: UInt8(number + 1),
        tags: [0, 0, 1, 2].randomElement(using: &generator)!, using: &generator)
      switch Int.random(in: 0..<6, using: &generator) {
      case 0: flow.identificationStep = 0
      case 1: flow.isUnfragmentable = false
      case 2: (flow.isUnfragmentable, flow.identificationStep) = (false, 0)
      case 3: flow.options = []
      default: break
      }
      flows.append(flow)
      sizes.append([1, 7, 100, 536, 1448, 1400].randomElement(using: &generator)!)
    }
  }

  /// The flow of a packet, or a number below 0 if it is of none, and the packet.
  mutating func next() -> (flow: Int, frame: [UInt8]) {
    if Int.random(in: 0..<40, using: &generator) == 0 {
      let rest: [UInt8] = [8, 6] + random(46, &generator)
      return (-1, [255, 255, 255, 255, 255, 255] + [2, 0, 0, 0, 0, 1] + rest)
    }
    // Mostly several of a flow after one another.
    let i = Int.random(in: 0..<flows.count, using: &generator)
    var size = sizes[i]
    var flags: UInt8 = 0x10
    let before = flows[i]
    switch Int.random(in: 0..<60, using: &generator) {
    case 0: size = Int.random(in: 0...1448, using: &generator)
    case 1: size = 0
    case 2:
      flags |= [0x08, 0x08, 0x01, 0x02, 0x04, 0x20, 0x40, 0x80].randomElement(using: &generator)!
    case 3: flags = UInt8.random(in: 0...255, using: &generator)
    case 4: flows[i].sequence &+= 1448
    case 5: flows[i].acknowledgement = random(4, &generator)
    case 6: flows[i].window = random(2, &generator)
    case 7: flows[i].identification &+= 7
    case 8: flows[i].hops &-= 1
    case 9: flows[i].typeOfService ^= 3
    case 10: flows[i].label = random(2, &generator)
    case 11: flows[i].isUnfragmentable.toggle()
    case 12: flows[i].link[11] ^= 1
    case 13: if flows[i].kind.isTCP { flows[i].options = [1, 1, 8, 10] + random(8, &generator) }
    case 14: size = max(1, size / 2)
    default: break
    }
    var frame = flows[i].next(random(size, &generator), flags: flags)
    let (network, transport) = WireFlow.places(frame)
    switch Int.random(in: 0..<80, using: &generator) {
    // A bit flips on the way, perhaps in an address.
    case 0:
      let place = Int.random(in: network..<frame.count, using: &generator)
      frame[place] ^= 4
      if place < transport + 20 {
        damaged += 1
        return (-1 - damaged, frame)
      }
    // No UDP checksum.
    case 1 where !before.kind.isTCP:
      frame.replaceSubrange(transport + 6..<transport + 8, with: [0, 0])
    // A fragment; the lengths are those of IP.
    case 2 where before.kind.isIPv4:
      frame[network + 6] |= 0x20
      frame = WireFlow.summed(frame)
    // An IP option.
    case 3 where before.kind.isIPv4:
      frame[network] = 0x46
      frame.insert(contentsOf: [1, 1, 1, 1], at: transport)
      frame.replaceSubrange(
        network + 2..<network + 4, with: OffloadPacket.word(frame.count - network))
      frame = WireFlow.summed(frame)
    case 4: frame += random(Int.random(in: 1...40, using: &generator), &generator)
    case 5: flows[i] = before
    default: break
    }
    if frame.count < 60 { frame += [UInt8](repeating: 0, count: 60 - frame.count) }
    return (i, frame)
  }
}
