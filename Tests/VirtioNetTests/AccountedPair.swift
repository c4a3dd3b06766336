// A queue pair on a port queue whose turns a test makes, whose rings come and go, and whose guest does
// everything that a guest can: what becomes of each chain is known beforehand.
import Glibc
import GuestDriver
import GuestMemory
import HostPort
import Packet
import Testing
import Virtqueue

@testable import VirtioNet

final class AccountedPair {
  /// What becomes of a chain that is offered to transmit.
  enum Fate: Hashable {
    case packet
    /// Cut into as many, or left uncut.
    case cut(Int)
    case dropped(DropReason)
  }

  let queue: any HostPortQueue
  let scripted: ScriptedPortQueue?
  let feed: ReceiveFeed
  private let transmitCounters = RingCounters()
  private let receiveCounters = RingCounters()
  private let feedCounters = RingCounters()
  private let filter = ReceiveFilter()
  var generator: SeededGenerator
  /// Lets frames arrive.
  var inject: ([[UInt8]]) -> Void = { _ in }
  /// Something happens to the interface: 0 to 3.
  var disturb: (Int) throws -> Void = { _ in }
  /// Frames that arrive at once.
  var largestBurst = 64

  private var ram: GuestRAM
  private var features: VirtioFeatures = []
  private var isEnabled = false
  private var transmit: TransmitPath?
  private var receive: ReceivePath?
  private var transmitDriver: (any RingDriver)?
  private var receiveDriver: (any RingDriver)?
  private var buffers: [UInt16: [DriverQueue.Buffer]] = [:]
  /// Of the chains in the ring, oldest first.
  private var fates: [Fate] = []

  /// What the guest saw: chains that it got back, by what they were.
  private(set) var returned: [Fate: Int] = [:]
  /// Packets that it received, and what they would be on a wire.
  private(set) var got = 0
  private(set) var gotSegments = 0

  init(_ queue: any HostPortQueue, seed: UInt64) throws {
    self.queue = queue
    scripted = queue as? ScriptedPortQueue
    generator = SeededGenerator(seed: seed)
    ram = try GuestRAM(bytes: 4096)
    feed = ReceiveFeed(queue, counters: feedCounters, filter: filter)
  }

  /// As SIGUSR1 prints them.
  var accounts: Accounts {
    let port = queue.statistics.counters.map { "\($0.name) \($0.value)" }
    let waits = feedCounters.feedSummary.map { ", \($0)" }.joined()
    return Accounts(
      """
      receive 0: \(receiveCounters.summary)\(waits)
      transmit 0: \(transmitCounters.summary)
      port queue 0: \(port.joined(separator: ", "))
      """)
  }

  func dropped(_ reason: DropReason) -> Int { Int(transmitCounters.dropped(reason)) }

  /// One of the things that happen.
  func step(_ wire: inout AlikePackets) throws {
    switch Int.random(in: 0..<28, using: &generator) {
    case 0: try restart()
    case 1: try generator.once(in: 3) ? stop() : restart()
    case 2: setFilter()
    case 3: setOffloads()
    case 4: try disturb(Int.random(in: 0...3, using: &generator))
    case 5: scripted?.refuse(Int.random(in: 0...5, using: &generator))
    case 6: feed.forget()
    case 7: if generator.once(in: 3) { feed.release() }
    case 8: scripted?.complete(Int.random(in: 0...largestBurst, using: &generator))
    case 9:
      // Frames wait that no buffers come for.
      if generator.once(in: 6) { ThreadTime.sleep(milliseconds: Int(ReceiveFeed.patience) + 5) }
      feed.shedIfDue()
    case 10...13: giveBuffers()
    case 14...16:
      let count = Int.random(in: 1...largestBurst, using: &generator)
      inject((0..<count).map { _ in wire.next().frame })
    case 17...19: offer()
    default: try turn()
    }
  }

  // MARK: rings

  /// A driver comes, with features of its own; the one before has left its rings as they were.
  func restart() throws {
    try stop()
    var features: VirtioFeatures = [.version1, .ringIndirectDesc]
    for (feature, odds) in [
      (.mrgRxbuf, 2), (.ringPacked, 3), (.ringEventIdx, 2),
    ] as [(VirtioFeatures, Int)] where generator.once(in: odds) {
      features.formUnion(feature)
    }
    if !generator.once(in: 3) {
      features.formUnion([.csum, .hostTSO4, .hostTSO6, .hostECN, .hostUSO])
    }
    if !generator.once(in: 3) {
      features.formUnion([
        .guestCsum, .guestTSO4, .guestTSO6, .guestECN, .guestUSO4, .guestUSO6,
      ])
    }
    self.features = features
    isEnabled = !generator.once(in: 6)
    ram = try GuestRAM(bytes: 64 << 20)
    let memory = try ram.memory()
    let transmitDriver = ringDriver(in: ram, size: 128, features: features)
    let receiveDriver = ringDriver(in: ram, size: 128, features: features)
    transmit = try TransmitPath(
      transmitDriver.config(index: 1, memory: memory, isEnabled: isEnabled), port: queue,
      counters: transmitCounters)
    let receive = try ReceivePath(
      receiveDriver.config(index: 0, memory: memory), counters: receiveCounters)
    (self.transmitDriver, self.receiveDriver) = (transmitDriver, receiveDriver)
    self.receive = receive
    feed.route(to: receive)
  }

  /// The driver takes what is its own, and leaves.
  func stop() throws {
    try collect()
    feed.route(to: nil)
    (transmit, receive, transmitDriver, receiveDriver) = (nil, nil, nil, nil)
    fates = []
    buffers = [:]
  }

  func setFilter() {
    var mode = ReceiveMode(address: MACAddress("02:00:00:00:00:02")!)
    mode.promiscuous = generator.once(in: 2)
    mode.allMulticast = generator.once(in: 2)
    mode.filtersAddresses = true
    filter.set(mode)
    feed.siftHeld()
  }

  func setOffloads() {
    receive?.setOffloads(generator.once(in: 2) ? [] : .guestOffloads)
    feed.splitHeld()
  }

  func turn() throws {
    for _ in 0..<Int.random(in: 1...3, using: &generator) {
      _ = transmit?.run()
      _ = feed.turn()
      _ = queue.flush()
    }
    try collect()
  }

  // MARK: the guest

  private func collect() throws {
    for _ in 0..<(try transmitDriver?.allUsed().count ?? 0) {
      returned[fates.removeFirst(), default: 0] += 1
    }
    while let first = try receiveDriver?.nextUsed() {
      // Malformed, or in front of one that was.
      if first.length == 0 { continue }
      let header = head(of: try #require(buffers[first.head]))
      let count = features.contains(.mrgRxbuf) ? Int(header[10]) | Int(header[11]) << 8 : 1
      var length = Int(first.length)
      for _ in 1..<count {
        length += Int(try #require(try receiveDriver?.nextUsed()).length)
      }
      got += 1
      let size = header[1] == 0 ? 0 : Int(header[4]) | Int(header[5]) << 8
      let payload = length - 12 - (Int(header[2]) | Int(header[3]) << 8)
      gotSegments += size == 0 ? 1 : (payload + size - 1) / size
    }
  }

  /// The virtio-net header in a chain.
  private func head(of chain: [DriverQueue.Buffer]) -> [UInt8] {
    ram.read(chain[0].address, count: 12)
  }

  func giveBuffers() {
    guard let receiveDriver else { return }
    for _ in 0..<Int.random(in: 1...24, using: &generator) {
      var lengths = [[1600], [1600], [300], [100, 1500], [66000]].randomElement(using: &generator)!
      var isWritable = true
      switch Int.random(in: 0..<30, using: &generator) {
      case 0: lengths = [11]
      case 1: isWritable = false
      default: break
      }
      let placed = ChainLayout("", lengths).place(in: ram, writable: isWritable)
      guard let head = receiveDriver.add(placed) else { break }
      buffers[head] = placed
    }
    receiveDriver.publish()
  }

  func offer() {
    guard transmitDriver != nil else { return }
    for _ in 0..<Int.random(in: 1...30, using: &generator) {
      guard let (fate, header, bytes) = next() else {
        add([.init(GuestAddress(1 << 40), 100)], .dropped(.malformedChain))
        continue
      }
      let all = header + bytes
      let address = ram.allocate(max(1, all.count))
      unsafe all.withUnsafeBytes {
        guard let base = $0.baseAddress else { return }
        unsafe ram.pointer(address, length: all.count).copyMemory(
          from: base, byteCount: all.count)
      }
      let cut = Int.random(in: 0...all.count, using: &generator)
      let whole = DriverQueue.Buffer(address, UInt32(all.count))
      let parts = [
        DriverQueue.Buffer(address, UInt32(cut)),
        DriverQueue.Buffer(GuestAddress(address.value + UInt64(cut)), UInt32(all.count - cut)),
      ]
      add(generator.once(in: 3) ? parts : [whole], fate)
    }
    transmitDriver?.publish()
  }

  private func add(_ buffers: [DriverQueue.Buffer], _ fate: Fate) {
    guard transmitDriver?.add(buffers) != nil else { return }
    fates.append(isEnabled ? fate : .dropped(.ringDisabled))
  }

  /// A packet and what becomes of it; nil: its chain is malformed.
  private func next() -> (fate: Fate, header: [UInt8], bytes: [UInt8])? {
    let none = [UInt8](repeating: 0, count: 12)
    let mayAsk = features.contains(.csum)
    switch Int.random(in: 0..<20, using: &generator) {
    case 0: return nil
    case 1: return (.dropped(.tooShort), none, generator.bytes(13))
    case 2: return (.dropped(.tooShort), Array(none.prefix(5)), [])
    case 3: return (.dropped(.tooLong), none, [UInt8](repeating: 1, count: 20000))
    // A type that there is not.
    case 4: return (.dropped(.badHeader), [1, 3] + none.dropFirst(2), generator.bytes(80))
    case 5...9:
      let segments = Int.random(in: 1...40, using: &generator)
      var packet = OffloadPacket(
        OffloadPacket.Kind.allCases.randomElement(using: &generator)!, cut: true,
        payload: 500 * segments, segmentSize: 500, using: &generator)
      guard mayAsk else { return (.dropped(.badHeader), packet.header, packet.bytes) }
      switch Int.random(in: 0..<5, using: &generator) {
      case 0:
        packet.header.replaceSubrange(4..<6, with: [0, 0])
        return (.dropped(.badOffload), packet.header, packet.bytes)
      case 1:
        packet = OffloadPacket(
          .tcp4, cut: true, payload: 600, segmentSize: 1, using: &generator)
        return (.dropped(.tooManySegments), packet.header, packet.bytes)
      default: return (.cut(segments), packet.header, packet.bytes)
      }
    case 10, 11:
      let packet = OffloadPacket(
        .udp4, cut: false, payload: 300, segmentSize: 0, using: &generator)
      return (mayAsk ? .packet : .dropped(.badHeader), packet.header, packet.bytes)
    default:
      return (.packet, none, generator.bytes(Int.random(in: 14...1200, using: &generator)))
    }
  }
}

extension AccountedPair {
  /// Whether the counters say what the guest and the port saw.
  func matches(_ accounts: Accounts) -> Bool {
    let chains = returned.values.reduce(0, +)
    let packets = returned.reduce(0) { sum, fate in
      if case .dropped = fate.key { sum } else { sum + fate.value }
    }
    // What left uncut is not among the segments.
    let cut = returned.reduce(0) { sum, fate in
      if case .cut(let segments) = fate.key { sum + fate.value * segments } else { sum }
    }
    let reasonsMatch = DropReason.allCases.allSatisfy {
      dropped($0) == returned[.dropped($0), default: 0]
    }
    let hasLane = queue.bulkLane != nil
    guard accounts.sum("transmit", "chains") == chains,
      accounts.sum("transmit", "packets") == packets, reasonsMatch,
      hasLane || accounts.sum("transmit", "segments") == cut,
      accounts.sum("receive", "packets") == got, accounts.delivered == gotSegments
    else { return false }
    guard let scripted else { return true }
    return accounts.sum("", "rx_packets") == scripted.receivedCount
      && accounts.sum("", "tx_packets") >= scripted.transmittedCount
  }
}
