// One way to use the data path: direction, ring format, packet size and what else may cost.
import GuestDriver
import GuestMemory
import HostPort
import Linux
import VirtioNet
import Virtqueue

struct Row {
  enum Direction: String {
    case transmit, receive
  }
  enum Format: String, CaseIterable {
    case split, inOrder = "in-order", packed
  }

  /// What the guest leaves to the device.
  enum Offload: String {
    case none, checksum, segments
    /// Received: segments of one flow, which are merged; and datagrams of as many flows as there are,
    /// which are not.
    case merged, single
  }

  let direction: Direction
  var format = Format.split
  var size = 64
  var mergeable = true
  var ring = 256
  var queuePairs = 1
  /// Of guest memory; buffers lie in all of them, in random order.
  var regions = 1
  /// Descriptors of a transmit chain; receive buffers hold this part of a packet.
  var pieces = 1
  var offload = Offload.none

  /// As in the file of thresholds.
  var name: String {
    var parts = [direction.rawValue, format.rawValue, "\(size)"]
    if !mergeable { parts.append("unmergeable") }
    if ring != 256 { parts.append("ring\(ring)") }
    if queuePairs != 1 { parts.append("pairs\(queuePairs)") }
    if regions != 1 { parts.append("regions\(regions)") }
    if pieces != 1 { parts.append("pieces\(pieces)") }
    if offload != .none { parts.append(offload.rawValue) }
    return parts.joined(separator: "-")
  }

  static var all: [Row] {
    var rows: [Row] = []
    for direction in [Direction.transmit, .receive] {
      for format in Format.allCases {
        for size in [64, 512, 1024, 1500] {
          for mergeable in [true, false] {
            rows.append(
              Row(direction: direction, format: format, size: size, mergeable: mergeable))
          }
        }
      }
      rows.append(Row(direction: direction, size: 1500, pieces: 3))
      for ring in [1024, 4096] { rows.append(Row(direction: direction, ring: ring)) }
      for pairs in [2, 4] { rows.append(Row(direction: direction, queuePairs: pairs)) }
      for regions in [2, 8, 64, 509] { rows.append(Row(direction: direction, regions: regions)) }
    }
    rows.append(Row(direction: .transmit, offload: .checksum))
    rows.append(Row(direction: .transmit, size: 1500, offload: .checksum))
    rows.append(Row(direction: .transmit, size: 16000, offload: .segments))
    rows.append(Row(direction: .receive, size: 1500, offload: .merged))
    rows.append(Row(direction: .receive, format: .packed, size: 1500, offload: .merged))
    rows.append(Row(direction: .receive, size: 1500, mergeable: false, offload: .merged))
    rows.append(Row(direction: .receive, offload: .single))
    return rows
  }

  private var features: VirtioFeatures {
    var features: VirtioFeatures = [.version1, .ringEventIdx, .ringIndirectDesc]
    if mergeable { features.insert(.mrgRxbuf) }
    switch offload {
    case .none: break
    case .checksum, .segments: features.formUnion([.csum, .hostTSO4])
    case .merged, .single: features.formUnion([.guestCsum, .guestTSO4, .guestUSO4])
    }
    switch format {
    case .split: break
    case .inOrder: features.insert(.inOrder)
    case .packed: features.formUnion([.ringPacked, .inOrder])
    }
    return features
  }

  /// Moves so many packets, a batch for each queue pair at a time.
  /// - Returns: how many came back to the driver.
  func run(packets: Int) throws -> Int {
    let port: any HostPort =
      switch offload {
      case .merged: SegmentPort(size: size, kind: .tcp)
      case .single: SegmentPort(size: size, kind: .udp)
      default:
        direction == .transmit
          ? NullPort(queueCount: queuePairs) : try GeneratePort(size: size, queueCount: queuePairs)
      }
    let ram = try memory()
    let mailbox = try Mailbox<WorkerMessage>()
    let worker = try Worker(mailbox: mailbox) { _ in }
    let guests = try (0..<queuePairs).map { pair in
      let queue = try port.openQueue(pair)
      let guest = try GuestQueue(self, pair, ram, features)
      mailbox.post(.adopt(queue, RingCounters(), idleSince: 0))
      mailbox.post(
        .startQueue(guest.config, queue, RingCounters(), try Reply<QueueStart>()))
      if direction == .receive {
        mailbox.post(.route(port: pair, ring: guest.config.index, try Reply<Bool>()))
      }
      return guest
    }
    _ = worker.readMail()
    var moved = 0
    while moved < packets {
      for guest in guests { guest.offer() }
      // A turn of its own for each batch, as under load.
      // Segments may take more frames than a turn has.
      while worker.turn() > 0 && offload == .segments {}
      if offload == .merged {
        for guest in guests { try guest.takeAll() }
        moved += GuestQueue.batch
      } else {
        for guest in guests { moved += try guest.takeBack() }
      }
    }
    return moved
  }

  /// 512 MiB, of which little is touched, in so many regions with gaps between them.
  private func memory() throws -> GuestRAM {
    let size = UInt64(512 << 20) / UInt64(regions) / 4096 * 4096
    return try GuestRAM((0..<UInt64(regions)).map { ($0 * (size + 4096), size) })
  }
}
