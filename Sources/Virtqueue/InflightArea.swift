// The in-flight area: shared memory that the front-end keeps when this process dies, and gives to
// the next one (vhost-user specification, "Inflight I/O tracking").
//
//   | region of queue 0 | region of queue 1 | ...    each a header and one entry for a descriptor
//
// Every region begins on a multiple of 64 bytes, as in the other back-ends that have them, so an
// area of theirs is one of ours.  Version 0 in a header says that nothing was written yet.
//
// Hostile: the front-end may write the area at any time.  Shape and headers are checked here once;
// what recovery needs of a region is read once and checked where it is used.
public import Linux
import GuestMemory
import SharedRing

/// What a region looks like; it follows from the format of the rings.
public enum InflightFormat: Sendable {
  case split, packed

  /// Bytes of the header.
  var header: Int {
    switch self {
    case .split: 16
    case .packed: 32
    }
  }

  /// Bytes of the entry for one descriptor.
  var entry: Int {
    switch self {
    case .split: 16
    case .packed: 32
    }
  }

  /// Bytes of a whole region.
  func regionBytes(entries: Int) -> Int { (header + entry * entries + 63) / 64 * 64 }

  /// Bytes of an area.
  public func areaBytes(queues: Int, entries: Int) -> Int { queues * regionBytes(entries: entries) }
}

/// Why an area was refused.
public enum InflightDefect: Error, Equatable, Sendable, CustomStringConvertible {
  case queueCount(Int, most: Int)
  case entryCount(Int)
  case offset(UInt64)
  case beyondFile(size: UInt64, offset: UInt64, fileSize: UInt64)
  case tooSmall(size: UInt64, needed: Int)
  case notMapped(Errno)
  case header(queue: Int, version: UInt16, entries: UInt16, features: UInt64, expected: Int)

  public var description: String {
    switch self {
    case .queueCount(let count, let most):
      "an in-flight area for \(count) queues; the device has 1 to \(most)"
    case .entryCount(let count):
      "an in-flight area for queues of \(count) entries; 1 to 32768 are possible"
    case .offset(let offset):
      "an in-flight area at offset \(offset) of its file, which is not a multiple of 8 inside it"
    case .beyondFile(let size, let offset, let fileSize):
      "an in-flight area of \(size) bytes at offset \(offset) is beyond its file of \(fileSize) bytes"
    case .tooSmall(let size, let needed):
      "an in-flight area of \(size) bytes; its queues need \(needed)"
    case .notMapped(let errno): "an in-flight area that cannot be mapped: \(errno)"
    case .header(let queue, let version, let entries, let features, let expected):
      "the in-flight region of queue \(queue) has version \(version), \(entries) entries and feature "
        + "bits \(features); version 0 (new), or version 1 with \(expected) entries and no feature "
        + "bits, is expected"
    }
  }
}

@safe
public final class InflightArea: Sendable {
  public let queueCount: Int
  /// Entries of each region.
  public let entryCount: Int
  private let window: FileWindow

  /// Maps the area that lies at `offset` of a file.
  /// - Parameters:
  ///   - mostQueues: of the device.
  ///   - format: of the rings; regions that were used before must say the same shape.
  ///   - peer: whose file it is: to be told when it is cut.
  public init(
    file: borrowing OwnedDescriptor, offset: UInt64, size: UInt64, queueCount: Int,
    entryCount: Int, mostQueues: Int, format: InflightFormat, of peer: PeerAlarm? = nil
  ) throws(InflightDefect) {
    try InflightArea.check(queueCount: queueCount, entryCount: entryCount, mostQueues: mostQueues)
    let needed = format.areaBytes(queues: queueCount, entries: entryCount)
    guard size >= UInt64(needed) else { throw .tooSmall(size: size, needed: needed) }
    guard offset % 8 == 0, !offset.addingReportingOverflow(size).overflow else {
      throw .offset(offset)
    }
    // What is mapped is what is used, however much more the front-end offers.
    do throws(FileWindowError) {
      window = try FileWindow(file, offset: offset, length: UInt64(needed), of: peer)
    } catch {
      switch error {
      case .overflow: throw .offset(offset)
      case .beyondFile(let fileSize):
        throw .beyondFile(size: size, offset: offset, fileSize: fileSize)
      case .notMapped(let errno): throw .notMapped(errno)
      }
    }
    self.queueCount = queueCount
    self.entryCount = entryCount
    for queue in 0..<queueCount { try checkHeader(queue, format) }
  }

  public static func check(
    queueCount: Int, entryCount: Int, mostQueues: Int
  ) throws(InflightDefect) {
    guard 1...mostQueues ~= queueCount else { throw .queueCount(queueCount, most: mostQueues) }
    guard 1...32768 ~= entryCount else { throw .entryCount(entryCount) }
  }

  private func checkHeader(_ queue: Int, _ format: InflightFormat) throws(InflightDefect) {
    guard let region = unsafe region(of: queue, format) else { return }
    let features = unsafe region.relaxed64(0)
    let version = unsafe region.relaxed16(InflightHeader.version)
    let entries = unsafe region.relaxed16(InflightHeader.entryCount)
    guard version == 0 || (version == 1 && Int(entries) == entryCount && features == 0) else {
      throw .header(
        queue: queue, version: version, entries: entries, features: features, expected: entryCount)
    }
  }

  /// Forgets everything, as for a device that was reset.
  public func clear() {
    unsafe window.base.initializeMemory(
      as: UInt8.self, repeating: 0, count: window.length)
  }

  /// The region of a queue, writable; nil if the area has none for it, or is too small for the
  /// format, which may have changed since the area came.
  func region(of queue: Int, _ format: InflightFormat) -> UnsafeMutableRawPointer? {
    let stride = format.regionBytes(entries: entryCount)
    guard queue >= 0, queue < queueCount, (queue + 1) * stride <= window.length else { return nil }
    return unsafe window.base + queue * stride
  }
}

/// What the headers of both formats have: offsets.
@frozen @usableFromInline
enum InflightHeader {
  @usableFromInline static let version = 8
  @usableFromInline static let entryCount = 10
}
