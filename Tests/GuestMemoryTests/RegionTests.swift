import CLinux
import Glibc
import GuestDriver
import GuestMemory
import Linux
import Testing

@Suite("Memory regions")
struct RegionTests {
  private static func file(bytes: Int) throws -> CInt {
    let raw = try checkedCall { unsafe memfd_create("region", UInt32(MFD_CLOEXEC)) }
    try checkedCall { ftruncate(raw, off_t(bytes)) }
    return raw
  }

  private func error(
    guest: UInt64 = 0, size: UInt64 = 4096, frontEnd: UInt64 = 0, offset: UInt64 = 0,
    fileBytes: Int = 8192
  ) throws -> GuestMemoryError? {
    let description = MemoryRegionDescription(
      guest: GuestAddress(guest), size: size, frontEnd: FrontEndAddress(frontEnd), offset: offset)
    let file = OwnedDescriptor(adopting: try RegionTests.file(bytes: fileBytes))
    do throws(GuestMemoryError) {
      _ = try MemoryRegion(description, file: file)
      return nil
    } catch { return error }
  }

  @Test("a region of size 0 is refused")
  func empty() throws {
    let error = try error(guest: 0x1000, size: 0)
    #expect(error == .emptyRegion(GuestAddress(0x1000)))
    #expect(error?.description == "memory region at guest address 0x1000 has size 0")
  }

  @Test("a region that runs past the end of an address space is refused")
  func overflow() throws {
    func isOverflow(_ error: GuestMemoryError?) -> Bool {
      if case .addressOverflow = error { true } else { false }
    }
    #expect(isOverflow(try error(guest: .max - 4094)))
    #expect(isOverflow(try error(frontEnd: .max - 4094)))
    #expect(isOverflow(try error(offset: .max - 4094)))
    #expect(isOverflow(try error(offset: UInt64(Int.max) - 4094)))
    #expect(isOverflow(try error(size: .max)))
    #expect(isOverflow(try error(size: 1 << 63)))
  }

  @Test("a region that ends with the address space has no room for its last page")
  func lastPage() throws {
    // As large as a file can be.
    let error = try error(size: UInt64(Int.max), fileBytes: Int.max)
    guard case .addressOverflow = error else {
      Issue.record("\(String(describing: error))")
      return
    }
  }

  @Test("a region beyond its file is refused: it would be a SIGBUS later")
  func beyondFile() throws {
    func fileSize(_ error: GuestMemoryError?) -> UInt64? {
      if case .beyondFile(_, let size) = error { size } else { nil }
    }
    #expect(fileSize(try error(size: 8193)) == 8192)
    #expect(fileSize(try error(size: 4096, offset: 4097)) == 8192)
    #expect(fileSize(try error(offset: 1 << 40)) == 8192)
    #expect(fileSize(try error(fileBytes: 0)) == 0)
    #expect(try error(size: 8192) == nil)
    #expect(try error(size: 4096, offset: 4096) == nil)
  }

  @Test("what is not a file of shared memory is refused with the remedy")
  func notMapped() throws {
    let event = OwnedDescriptor(
      adopting: try checkedCall { eventfd(0, CInt(EFD_CLOEXEC)) })
    let closed = OwnedDescriptor(adopting: -1)
    let description = MemoryRegionDescription(
      guest: GuestAddress(0), size: 4096, frontEnd: FrontEndAddress(0), offset: 0)
    #expect(throws: GuestMemoryError.notMapped(description, Errno(EBADF))) {
      try MemoryRegion(description, file: closed)
    }
    // An eventfd is a file of no bytes.
    #expect(throws: GuestMemoryError.self) { try MemoryRegion(description, file: event) }
    let text = GuestMemoryError.notMapped(description, Errno(ENODEV)).description
    #expect(text.contains("share=on"))
    let readOnly = OwnedDescriptor(
      adopting: try checkedCall { unsafe open("/proc/self/exe", O_RDONLY | O_CLOEXEC) })
    #expect(throws: GuestMemoryError.notMapped(description, Errno(EACCES))) {
      try MemoryRegion(description, file: readOnly)
    }
  }

  @Test(
    "a region starts at its offset in the file, page aligned or not",
    arguments: [0, 1, 100, 4096, 5000])
  func offsets(offset: Int) throws {
    let file = OwnedDescriptor(adopting: try RegionTests.file(bytes: 16384))
    var bytes = (0..<16384).map { UInt8(truncatingIfNeeded: $0 / 7) }
    #expect(unsafe pwrite(file.raw, &bytes, bytes.count, 0) == 16384)
    let region = try MemoryRegion(
      MemoryRegionDescription(
        guest: GuestAddress(0), size: 8192, frontEnd: FrontEndAddress(0), offset: UInt64(offset)),
      file: file)
    for i in [0, 1, 4095, 4096, 8191] {
      #expect(unsafe region.base.load(fromByteOffset: i, as: UInt8.self) == bytes[offset + i])
    }
  }

  @Test("both sides see the same bytes")
  func shared() throws {
    let ram = try GuestRAM(bytes: 8192)
    let region = try ram.region(0)
    ram.write([1, 2, 3], at: GuestAddress(5000))
    #expect(unsafe region.base.load(fromByteOffset: 5001, as: UInt8.self) == 2)
    unsafe region.base.storeBytes(of: 9, toByteOffset: 5001, as: UInt8.self)
    #expect(ram.read(GuestAddress(5000), count: 3) == [1, 9, 3])
  }

  @Test("memory that is taken away reads as zeros, what is left of it stays, and that is told")
  func cut() throws {
    let peer = PeerAlarm()
    let file = OwnedDescriptor(adopting: try RegionTests.file(bytes: 1 << 20))
    let description = MemoryRegionDescription(
      guest: GuestAddress(0), size: (1 << 20) - 4096, frontEnd: FrontEndAddress(0), offset: 4096)
    let region = try MemoryRegion(description, file: file, of: peer)
    let memory = try GuestMemory([region])
    unsafe region.base.initializeMemory(as: UInt8.self, repeating: 7, count: 65536)
    #expect(!memory.isLost && peer.reasons == [])
    try checkedCall { ftruncate(file.raw, 4096 + 8192) }
    #expect(unsafe region.base.load(fromByteOffset: 20000, as: UInt8.self) == 0)
    unsafe region.base.storeBytes(of: 5, toByteOffset: 30000, as: UInt8.self)
    #expect(unsafe region.base.load(fromByteOffset: 30000, as: UInt8.self) == 5)
    #expect(unsafe region.base.load(fromByteOffset: 8191, as: UInt8.self) == 7)
    #expect(unsafe region.base.load(fromByteOffset: (1 << 20) - 4097, as: UInt8.self) == 0)
    #expect(memory.isLost && peer.reasons == .memoryLost)
    var poller = pollfd(fd: peer.descriptor!, events: Int16(POLLIN), revents: 0)
    #expect(unsafe poll(&poller, 1, 0) == 1)
  }

  @Test("another bus error ends the process as ever")
  func otherBusError() async {
    await #expect(processExitsWith: .signal(SIGBUS)) {
      let ram = try GuestRAM(bytes: 4096)
      let region = try ram.region(0)
      let file = OwnedDescriptor(
        adopting: try checkedCall { unsafe memfd_create("other", UInt32(MFD_CLOEXEC)) })
      let mapping = try Mapping(length: 4096, descriptor: file.raw, flags: CInt(MAP_SHARED))
      unsafe mapping.base.storeBytes(of: 1, as: UInt8.self)
      _ = region.description
    }
  }

  @Test("a region outlives the descriptor it came with")
  func descriptorGone() throws {
    let ram = try GuestRAM(bytes: 4096)
    let region: MemoryRegion
    do {
      let file = try ram.duplicateFile()
      region = try MemoryRegion(ram.descriptions[0], file: file)
    }
    ram.write([7], at: GuestAddress(0))
    #expect(unsafe region.base.load(as: UInt8.self) == 7)
  }
}
