// Every way in which a driver may lay out a packet of header and payload over descriptors.
//
// With VERSION_1 or ANY_LAYOUT a device may assume nothing of message framing (virtio 1.3, 2.7.4):
// the header may stand alone, share a descriptor with the payload, or be cut anywhere; a packet may
// have no linear head.  The specification does not forbid a descriptor of length 0; Linux never
// sends one, and a device has to take it for what it is: no bytes.

public struct ChainLayout: Sendable, CustomStringConvertible {
  /// A readable name: "header alone, payload in 2".
  public let description: String
  /// Bytes of each buffer, in order; some may be 0.
  public let lengths: [Int]
  /// Buffers with a descriptor of the ring's own; the others are in an indirect table.  Nil: all.
  public let direct: Int?
  /// The buffers that begin in one memory region and end in the next.
  public let crossing: Set<Int>

  public init(
    _ description: String, _ lengths: [Int], direct: Int? = nil, crossing: Set<Int> = []
  ) {
    self.description = description
    self.lengths = lengths
    self.direct = direct
    self.crossing = crossing
  }

  public var byteCount: Int { lengths.reduce(0, +) }
  /// Descriptors of the ring that the chain takes.
  public var ringDescriptors: Int {
    let direct = min(self.direct ?? lengths.count, lengths.count)
    return direct + (direct < lengths.count ? 1 : 0)
  }

  /// The layouts of a packet of `headerLength` + `payloadLength` bytes, each also indirect, indirect
  /// after the first descriptor, and over region borders.
  /// - Parameter ringSize: layouts that need more descriptors than this exist indirect only.
  public static func all(
    headerLength: Int, payloadLength: Int, ringSize: Int = 256
  ) -> [ChainLayout] {
    var all: [ChainLayout] = []
    for layout in contiguous(headerLength: headerLength, payloadLength: payloadLength) {
      if layout.lengths.count <= ringSize { all.append(layout) }
      all.append(
        ChainLayout(layout.description + ", indirect", layout.lengths, direct: 0))
      if layout.lengths.count > 1 {
        all.append(
          ChainLayout(
            layout.description + ", indirect after the first", layout.lengths, direct: 1))
      }
      // One-byte pieces cannot cross anything; two crossings are enough of the long ones.
      let long = layout.lengths.indices.filter { layout.lengths[$0] > 1 }
      if !long.isEmpty, layout.lengths.count <= ringSize {
        all.append(
          ChainLayout(
            layout.description + ", across a border", layout.lengths,
            crossing: Set(long.prefix(2))))
      }
    }
    return all
  }

  private static func contiguous(headerLength: Int, payloadLength: Int) -> [ChainLayout] {
    let total = headerLength + payloadLength
    var layouts = [
      ChainLayout("header and payload in one", [total]),
      ChainLayout("header alone, payload in one", [headerLength, payloadLength]),
      ChainLayout(
        "one byte per descriptor", Array(repeating: 1, count: total)),
      ChainLayout(
        "one byte of header per descriptor, payload in one",
        Array(repeating: 1, count: headerLength) + [payloadLength]),
      ChainLayout(
        "empty descriptors between",
        [0, headerLength, 0, 0] + halves(payloadLength).flatMap { [$0, 0] }),
      ChainLayout("an empty descriptor after everything", [total, 0]),
    ]
    // The Ethernet header with the virtio header, the rest in fragments; and no linear head: the
    // packet begins in a fragment.
    layouts.append(
      ChainLayout("linear head, then fragments", cut(total, at: [headerLength + 14, total / 2])))
    layouts.append(
      ChainLayout(
        "no linear head, payload in 3",
        cut(total, at: [headerLength, headerLength + payloadLength / 3, total - 1])))
    // Where a parser could have assumed that something lies in one piece.
    let points = Set(
      [
        1, headerLength / 2, headerLength - 1, headerLength + 1, headerLength + 6,
        headerLength + 13, headerLength + 15, headerLength + 33, total - 1,
      ].filter { $0 > 0 && $0 < total })
    for point in points.sorted() {
      layouts.append(ChainLayout("cut at \(point)", cut(total, at: [point])))
    }
    return layouts
  }

  private static func halves(_ length: Int) -> [Int] { [length / 2, length - length / 2] }

  /// The pieces of `total` bytes, cut at the given offsets.
  public static func cut(_ total: Int, at points: [Int]) -> [Int] {
    var lengths: [Int] = []
    var last = 0
    for point in points.sorted() where point > last && point < total {
      lengths.append(point - last)
      last = point
    }
    return lengths + [total - last]
  }

  // MARK: In memory

  /// Memory for every buffer, apart from each other.
  public func place(in ram: GuestRAM, writable: Bool = false) -> [DriverQueue.Buffer] {
    lengths.indices.map { i in
      let length = lengths[i]
      let address =
        crossing.contains(i)
        ? ram.allocateAcrossBorder(length) : ram.allocate(max(1, length), alignment: 1)
      return DriverQueue.Buffer(address, UInt32(length), writable: writable)
    }
  }
}

extension GuestRAM {
  /// Writes `bytes` over the buffers, as a driver fills a packet.
  public func scatter(_ bytes: [UInt8], over buffers: [DriverQueue.Buffer]) {
    var rest = bytes[...]
    for buffer in buffers {
      write(rest.prefix(Int(buffer.length)), at: buffer.address)
      rest = rest.dropFirst(Int(buffer.length))
    }
    precondition(rest.isEmpty, "the buffers are smaller than the packet")
  }

  /// The first `count` bytes in the buffers, or all.
  public func gather(_ buffers: [DriverQueue.Buffer], count: Int? = nil) -> [UInt8] {
    var bytes: [UInt8] = []
    for buffer in buffers { bytes += read(buffer.address, count: Int(buffer.length)) }
    return Array(bytes.prefix(count ?? bytes.count))
  }
}
