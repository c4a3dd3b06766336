// The guest's IOMMU and the part of a front-end that speaks for it: translations, the channel over
// which a back-end asks for them, and the answers (vhost-user specification, "IOMMU support").
//
// It works when the test calls `serve`, so a test decides when an answer comes, if it comes at all.
// Nothing here is shared with the module under test: a mapping is a list of pages.
import Glibc
public import GuestMemory
import Linux

public final class GuestIOMMU {
  public struct Permission: OptionSet, Sendable {
    public let rawValue: UInt8
    public init(rawValue: UInt8) { self.rawValue = rawValue }
    public static let read = Permission(rawValue: 1)
    public static let write = Permission(rawValue: 2)
  }

  /// A miss that a back-end reported.
  public struct Miss: Equatable, Sendable {
    public var address: UInt64
    public var permission: UInt8
    public init(address: UInt64, permission: UInt8) {
      self.address = address
      self.permission = permission
    }
  }

  public static let page: UInt64 = 4096

  private let frontEnd: FrontEnd
  private let channel: FrontEndSocket
  private var pages: [UInt64: (frontEnd: UInt64, permission: Permission)] = [:]
  /// Taken and not answered: replies come in the order of the questions.
  private var owed: [(miss: Miss, wantsReply: Bool)] = []
  /// All misses that have arrived and were looked at.
  public private(set) var misses: [Miss] = []

  /// Gives the back-end the channel.
  public init(_ frontEnd: FrontEnd) throws {
    self.frontEnd = frontEnd
    let (own, other) = try FrontEndSocket.pair()
    let given = OwnedDescriptor(adopting: other)
    channel = try FrontEndSocket(adopting: OwnedDescriptor(adopting: own))
    try frontEnd.tell(.setBackendReqFD, descriptors: [given.raw])
  }

  // MARK: What the guest's driver does

  /// Maps whole pages: I/O virtual addresses from `address` on to front-end addresses.
  public func map(
    _ address: UInt64, size: UInt64, to target: FrontEndAddress,
    _ permission: Permission = [.read, .write]
  ) {
    for offset in stride(from: 0, to: size, by: Int(GuestIOMMU.page)) {
      pages[address + offset] = (target.value + offset, permission)
    }
  }

  /// Takes the mapping away; returns when the back-end has acknowledged it.
  public func unmap(_ address: UInt64, size: UInt64) throws {
    for offset in stride(from: 0, to: size, by: Int(GuestIOMMU.page)) {
      pages[address + offset] = nil
    }
    let code = try send(type: 3, address, size: size)
    guard code == 0 else { throw FrontEndError.refused(.iotlbMessage, code: code) }
  }

  // MARK: Messages

  /// IOTLB_MSG as given; returns the reply.
  @discardableResult
  public func send(
    type: UInt8, _ address: UInt64, size: UInt64, to frontEndAddress: UInt64 = 0,
    permission: UInt8 = 0
  ) throws(FrontEndError) -> UInt64 {
    try frontEnd.askInteger(
      .iotlbMessage,
      GuestIOMMU.payload(type, address, size, frontEndAddress, permission))
  }

  public static func payload(
    _ type: UInt8, _ address: UInt64, _ size: UInt64, _ frontEnd: UInt64, _ permission: UInt8
  ) -> [UInt8] {
    littleEndian(address) + littleEndian(size) + littleEndian(frontEnd)
      + [permission, type, 0, 0, 0, 0, 0, 0]
  }

  /// Tells of a mapping without being asked; returns the reply.
  @discardableResult
  public func push(_ address: UInt64) throws(FrontEndError) -> UInt64? {
    let page = address / GuestIOMMU.page * GuestIOMMU.page
    guard let mapped = pages[page] else { return nil }
    return try send(
      type: 2, page, size: GuestIOMMU.page, to: mapped.frontEnd,
      permission: mapped.permission.rawValue)
  }

  /// The misses that have arrived; `serve` answers them later.
  public func takeMisses() throws -> [Miss] {
    let known = owed.count
    while let question = try next() { owed.append(question) }
    return owed[known...].map(\.miss)
  }

  /// Answers the misses that have arrived, page by page; one that is not mapped, or not so, gets a
  /// reply that says so if the back-end asked for one.  Returns how many there were.
  /// - Parameter honest: false: the reply says that all is well, whatever it is.
  @discardableResult
  public func serve(honest: Bool = true) throws -> Int {
    var count = 0
    while let (miss, wantsReply) = try owed.isEmpty ? next() : owed.removeFirst() {
      count += 1
      let page = miss.address / GuestIOMMU.page * GuestIOMMU.page
      var code: UInt64 = 1
      if let mapped = pages[page],
        mapped.permission.isSuperset(of: Permission(rawValue: miss.permission))
      {
        code = try push(page) ?? 1
      }
      if wantsReply { try reply(honest ? code : 0) }
    }
    return count
  }

  /// Replies to a miss.
  public func reply(_ code: UInt64) throws(FrontEndError) {
    try channel.send(
      1, littleEndian(code), flags: FrontEndSocket.version | FrontEndSocket.replyFlag)
  }

  /// Bytes over the channel that are no reply.
  public func sendOverChannel(_ bytes: [UInt8]) throws(FrontEndError) {
    try channel.send(bytes: bytes)
  }

  private func next() throws -> (miss: Miss, wantsReply: Bool)? {
    var poller = pollfd(fd: channel.raw, events: Int16(POLLIN), revents: 0)
    guard unsafe poll(&poller, 1, 0) == 1 else { return nil }
    let message = try channel.receive()
    guard message.request == 1, message.payload.count == 32, message.payload[25] == 1 else {
      throw FrontEndError.badReply(
        request: message.request, flags: message.flags, size: UInt32(message.payload.count))
    }
    let miss = Miss(
      address: message.integer(at: 0, as: UInt64.self), permission: message.payload[24])
    misses.append(miss)
    return (miss, message.flags & FrontEndSocket.needReplyFlag != 0)
  }
}
