// The memory table.
//
// A new table is complete before it replaces the old one, so a refused request leaves the rings
// with what they had.  Every ring is quiet meanwhile; one whose memory is gone is refused by the
// device when it starts again, which costs that ring and not the connection.
import GuestMemory
import Linux

extension GuestMemory {
  /// Before the front-end has sent any, and after it has left.
  static let empty: GuestMemory = {
    do throws(GuestMemoryError) { return try GuestMemory([]) } catch {
      preconditionFailure("a table without regions is refused: \(error)")
    }
  }()
}

extension BackEnd {
  /// With GPA_ADDRESSES the front-end speaks of rings, and of what an IOMMU translates to, in guest
  /// addresses: the region has no other ones, whatever its description says.
  private func addressed(_ region: MemoryRegionDescription) -> MemoryRegionDescription {
    guard protocolFeatures.contains(.gpaAddresses) else { return region }
    var region = region
    region.frontEnd = FrontEndAddress(region.guest.value)
    return region
  }

  private func map(
    _ region: MemoryRegionDescription, _ file: borrowing OwnedDescriptor, request: String
  ) throws(VhostUserError) -> MemoryRegion {
    do throws(GuestMemoryError) {
      return try MemoryRegion(addressed(region), file: file, of: alarm)
    } catch { throw .memory(request: request, error) }
  }

  func setMemoryTable(
    _ regions: [MemoryRegionDescription], _ files: inout ReceivedDescriptors
  ) throws(VhostUserError) -> Reply {
    if regions.isEmpty, postcopy?.awaitsAcknowledgement == true {
      return try acknowledgePostcopy(0, request: "SET_MEM_TABLE")
    }
    var mapped: [MemoryRegion] = []
    for region in regions {
      guard let file = try take(.sharedMemory, of: &files, request: "SET_MEM_TABLE") else { break }
      mapped.append(try map(region, file, request: "SET_MEM_TABLE"))
    }
    let table: GuestMemory
    do throws(GuestMemoryError) { table = try GuestMemory(mapped) } catch {
      throw .memory(request: "SET_MEM_TABLE", error)
    }
    if isPostcopyListening { try registerForPostcopy(table, request: "SET_MEM_TABLE") }
    memory = table
    checkLogCoversMemory()
    guard isPostcopyListening else { return .acknowledge }
    var count: [UInt8] = []
    count.append(number: UInt64(mapped.count))
    return postcopyReply(padding: count, mapped)
  }

  func addRegion(
    _ region: MemoryRegionDescription, _ files: inout ReceivedDescriptors
  ) throws(VhostUserError) -> Reply {
    guard let file = try take(.sharedMemory, of: &files, request: "ADD_MEM_REG") else {
      throw .wrongDescriptorCount(request: "ADD_MEM_REG", count: 0, expected: "1")
    }
    // Before the mapping, so that a full table maps nothing.
    guard memory.regions.count < GuestMemory.maximumRegions else {
      throw .memory(
        request: "ADD_MEM_REG", .tooManyRegions(limit: GuestMemory.maximumRegions))
    }
    let added = try map(region, file, request: "ADD_MEM_REG")
    let table: GuestMemory
    do throws(GuestMemoryError) { table = try memory.adding(added) } catch {
      throw .memory(request: "ADD_MEM_REG", error)
    }
    if isPostcopyListening {
      try registerForPostcopy(table, unless: memory, request: "ADD_MEM_REG")
    }
    memory = table
    checkLogCoversMemory()
    guard isPostcopyListening else { return .acknowledge }
    return postcopyReply(padding: [UInt8](repeating: 0, count: 8), [added])
  }

  func removeRegion(_ region: MemoryRegionDescription) throws(VhostUserError) -> Reply {
    do throws(GuestMemoryError) {
      memory = try memory.removing(addressed(region))
    } catch {
      throw .memory(request: "REM_MEM_REG", error)
    }
    postcopy?.memory.keep(memory)
    return .acknowledge
  }
}
