// Guest memory as a virtual machine monitor makes it: one shared file, seen by the guest as several
// regions.  The driver side has its own mapping of the file and its own address arithmetic, so that
// a mistake in the module under test does not cancel itself out here.
import CLinux
import Glibc
public import GuestMemory
public import Linux

public final class GuestRAM: @unchecked Sendable {
  /// Where the first region lies in the front-end's address space: unlike any guest address, so
  /// that one kind of address taken for the other is found out.
  public static let frontEndBase: UInt64 = 0x7f12_0000_0000

  /// In the order they were asked for.
  public let descriptions: [MemoryRegionDescription]
  private let file: OwnedDescriptor
  private let mapping: Mapping
  /// Next free offset of each region.
  private var cursors: [UInt64]

  /// - Parameters:
  ///   - regions: guest address and size in bytes, both multiples of 4096.  Memory that is not
  ///     touched costs nothing, so a region of several GiB is fine.
  ///   - sealed: the file can change its length no more, as QEMU's.
  public init(
    _ regions: [(guest: UInt64, size: UInt64)], sealed: Bool = false
  ) throws(Errno) {
    precondition(regions.allSatisfy { $0.guest % 4096 == 0 && $0.size % 4096 == 0 })
    var offset: UInt64 = 0
    var descriptions: [MemoryRegionDescription] = []
    for region in regions {
      // A page apart in the front-end, so that nothing that crosses a border works by luck.
      let frontEnd = GuestRAM.frontEndBase + offset + UInt64(descriptions.count) * 4096
      descriptions.append(
        MemoryRegionDescription(
          guest: GuestAddress(region.guest), size: region.size,
          frontEnd: FrontEndAddress(frontEnd), offset: offset))
      offset += region.size
    }
    self.descriptions = descriptions
    cursors = regions.map { _ in 0 }
    if sealed {
      file = try OwnedDescriptor.sealedMemory(name: "guest-ram", length: Int(offset))
    } else {
      file = OwnedDescriptor(
        adopting: try checkedCall { unsafe memfd_create("guest-ram", UInt32(MFD_CLOEXEC)) })
      let raw = file.raw
      try checkedCall { ftruncate(raw, off_t(offset)) }
    }
    let raw = file.raw
    mapping = try Mapping(
      length: Int(offset), descriptor: raw, flags: CInt(MAP_SHARED) | CInt(MAP_NORESERVE))
  }

  /// One region at guest address 0.
  public convenience init(bytes: Int = 1 << 20) throws(Errno) {
    try self.init([(0, UInt64((bytes + 4095) / 4096 * 4096))])
  }

  /// Memory as of a PC with more than 3 GiB: a hole below 4 GiB, the rest above.
  public static func withHole(low: Int = 1 << 20, high: Int = 1 << 20) throws(Errno) -> GuestRAM {
    try GuestRAM([(0, UInt64(low)), (1 << 32, UInt64(high))])
  }

  /// `count` adjacent regions, so that there is a border wherever a test wants one.
  public static func withBorders(
    count: Int = 64, regionBytes: Int = 16384, at guest: UInt64 = 0x10_0000
  ) throws(Errno) -> GuestRAM {
    try GuestRAM(
      (0..<count).map { (guest + UInt64($0 * regionBytes), UInt64(regionBytes)) })
  }

  // MARK: For the device

  /// A descriptor of the file for the back-end, to be closed by whoever gets it.
  public func duplicateFile() throws(Errno) -> OwnedDescriptor { try file.duplicate() }

  /// Number of the file, owned by this object.
  public var fileNumber: CInt { file.raw }

  /// One region mapped as a back-end maps it.
  public func region(_ index: Int) throws(GuestMemoryError) -> MemoryRegion {
    try MemoryRegion(descriptions[index], file: file)
  }

  /// All regions mapped as a back-end maps them.
  public func memory() throws(GuestMemoryError) -> GuestMemory {
    var regions: [MemoryRegion] = []
    for i in descriptions.indices { regions.append(try region(i)) }
    return try GuestMemory(regions)
  }

  /// The address under which the front-end sees a byte of guest memory.
  public func frontEnd(of address: GuestAddress) -> FrontEndAddress {
    guard let (index, offset) = locate(address) else {
      preconditionFailure("\(address) is not guest memory")
    }
    return FrontEndAddress(descriptions[index].frontEnd.value + offset)
  }

  // MARK: For the driver

  /// The region that holds `address`, and the offset in it.
  public func locate(_ address: GuestAddress) -> (region: Int, offset: UInt64)? {
    for (i, d) in descriptions.enumerated()
    where address.value >= d.guest.value && address.value - d.guest.value < d.size {
      return (i, address.value - d.guest.value)
    }
    return nil
  }

  /// The driver's pointer to `length` bytes that lie in one region.
  public func pointer(_ address: GuestAddress, length: Int) -> UnsafeMutableRawPointer {
    guard let (index, offset) = locate(address),
      UInt64(length) <= descriptions[index].size - offset
    else { preconditionFailure("\(address) + \(length) is not inside one region") }
    return unsafe mapping.base + Int(descriptions[index].offset + offset)
  }

  /// Writes bytes, across borders too.
  public func write(_ bytes: some Sequence<UInt8>, at address: GuestAddress) {
    var address = address.value
    for byte in bytes {
      unsafe pointer(GuestAddress(address), length: 1).storeBytes(of: byte, as: UInt8.self)
      address += 1
    }
  }

  /// Reads bytes, across borders too.
  public func read(_ address: GuestAddress, count: Int) -> [UInt8] {
    (0..<UInt64(count)).map {
      unsafe pointer(GuestAddress(address.value + $0), length: 1).load(as: UInt8.self)
    }
  }

  /// Fresh memory inside one region.
  /// - Parameter region: which one; nil: the first with room.
  public func allocate(_ bytes: Int, alignment: Int = 1, region: Int? = nil) -> GuestAddress {
    for i in region.map({ $0..<$0 + 1 }) ?? descriptions.indices {
      let d = descriptions[i]
      let start = (cursors[i] + UInt64(alignment - 1)) / UInt64(alignment) * UInt64(alignment)
      if start <= d.size, UInt64(bytes) <= d.size - start {
        cursors[i] = start + UInt64(bytes)
        return GuestAddress(d.guest.value + start)
      }
    }
    preconditionFailure("guest memory is used up: make the GuestRAM larger")
  }

  /// Fresh memory that begins in one region and ends in an adjacent one; at least 2 bytes.
  /// - Parameter before: bytes in the lower region; half of them if nil.
  public func allocateAcrossBorder(_ bytes: Int, before: Int? = nil) -> GuestAddress {
    let before = UInt64(before ?? bytes / 2)
    let after = UInt64(bytes) - before
    precondition(before > 0 && after > 0)
    for (i, d) in descriptions.enumerated() {
      guard let upper = descriptions.firstIndex(where: { $0.guest.value == d.guest.value + d.size })
      else { continue }
      if cursors[i] + before <= d.size, cursors[upper] == 0, after <= descriptions[upper].size {
        cursors[i] = d.size
        cursors[upper] = after
        return GuestAddress(d.guest.value + d.size - before)
      }
    }
    preconditionFailure("no unused border left: make the GuestRAM of more regions")
  }

  /// How far memory is used; `release` takes it back to there.
  public struct Mark: Sendable { fileprivate let cursors: [UInt64] }
  public var mark: Mark { Mark(cursors: cursors) }
  public func release(to mark: Mark) { cursors = mark.cursors }
}
