import CLinux
import Glibc
import Linux
import Testing

/// Whether the descriptor is open, and the very file that it was before.
private func isOpen(_ fd: CInt) -> Bool { fcntl(fd, F_GETFD) >= 0 }

/// A descriptor with a number so high that no other test gets it meanwhile.
private func highDescriptor() throws -> CInt {
  let raw = try checkedCall { eventfd(0, CInt(EFD_CLOEXEC | EFD_NONBLOCK)) }
  defer { close(raw) }
  var limit = rlimit()
  _ = unsafe getrlimit(__rlimit_resource_t(UInt32(RLIMIT_NOFILE.rawValue)), &limit)
  let lowest = CInt(min(limit.rlim_cur, 1024)) - 200
  return try checkedCall { fcntl(raw, F_DUPFD_CLOEXEC, lowest) }
}

@Suite("Owned descriptors", .serialized)
struct DescriptorTests {
  @Test("a descriptor is closed when its owner goes")
  func closes() throws {
    let raw = try highDescriptor()
    do {
      let owned = OwnedDescriptor(adopting: raw)
      #expect(isOpen(owned.raw))
    }
    #expect(!isOpen(raw))
  }

  @Test("a released descriptor stays open")
  func release() throws {
    let raw = try highDescriptor()
    let owned = OwnedDescriptor(adopting: raw)
    #expect(owned.release() == raw)
    #expect(isOpen(raw))
    close(raw)
  }

  @Test("a duplicate is another number for the same file, closed on exec")
  func duplicate() throws {
    let event = try EventDescriptor()
    let owned = OwnedDescriptor(adopting: try checkedCall { dup(event.raw) })
    let second = try owned.duplicate()
    #expect(second.raw != owned.raw)
    #expect(fcntl(second.raw, F_GETFD) & FD_CLOEXEC != 0)
    event.signal()
    #expect(EventDescriptor(adopting: second).drain())
  }

  @Test("duplicating a closed descriptor is an error that is named")
  func closedDuplicate() {
    let owned = OwnedDescriptor(adopting: -1)
    #expect(throws: Errno(EBADF)) { _ = try owned.duplicate().raw }
    #expect(Errno(EBADF).description == "Bad file descriptor (EBADF)")
  }

  @Test("an event is set until it is drained")
  func event() throws {
    let event = try EventDescriptor()
    #expect(!event.drain())
    event.signal()
    event.signal()
    #expect(event.drain())
    #expect(!event.drain())
  }

  @Test("a peer's eventfd that is full does not block")
  func fullEvent() throws {
    let event = try EventDescriptor()
    var most = UInt64.max - 1
    #expect(unsafe write(event.raw, &most, 8) == 8)
    event.signal()
    #expect(event.drain())
  }

  @Test("would-block is a value, other errors are failures, success is a number")
  func results() throws {
    let event = try EventDescriptor()
    let raw = event.raw
    var value: UInt64 = 0
    #expect(systemCall { unsafe read(raw, &value, 8) } == .wouldBlock)
    #expect(systemCall { unsafe read(-1, &value, 8) } == .failed(Errno(EBADF)))
    event.signal()
    #expect(systemCall { unsafe read(raw, &value, 8) } == .done(8))
    #expect(throws: Errno(EBADF)) { try checkedCall { close(-1) } }
  }

  @Test("an interrupted call is made again")
  func interrupted() throws {
    var calls = 0
    let result = systemCall {
      calls += 1
      if calls < 3 {
        errno = EINTR
        return -1
      }
      return 7
    }
    #expect(result == .done(7))
    #expect(calls == 3)
  }

  @Test("a mapping shows the file from its offset on; one of no file is an error")
  func mapping() throws {
    let file = OwnedDescriptor(adopting: try checkedCall { unsafe memfd_create("map", 0) })
    let raw = file.raw
    try checkedCall { ftruncate(raw, 8192) }
    do {
      let mapping = try Mapping(
        length: 4096, descriptor: raw, offset: 4096, flags: CInt(MAP_SHARED))
      unsafe mapping.base.storeBytes(of: 0x5a, as: UInt8.self)
      #expect(mapping.length == 4096)
    }
    var byte: UInt8 = 0
    #expect(unsafe pread(raw, &byte, 1, 4096) == 1)
    #expect(byte == 0x5a)
    #expect(throws: Errno(EBADF)) {
      _ = try Mapping(length: 4096, descriptor: 1 << 20, flags: CInt(MAP_SHARED)).length
    }
  }
}
