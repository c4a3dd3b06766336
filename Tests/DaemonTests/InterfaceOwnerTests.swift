// Two daemons and one interface.
import Glibc
import Linux
import Testing

@testable import vhost_user_xdp

@Suite("Interface owner")
struct InterfaceOwnerTests {
  /// Indices that no interface of this machine has.
  private static let unusedIndex = 0x7000_0000 + Int(getpid())

  @Test("a second owner is refused with the first one's pid and name")
  func second() throws {
    let first = try InterfaceOwner("eth1", index: InterfaceOwnerTests.unusedIndex)
    let name = try #require(ProcessSettings.name(ofProcess: Int(getpid())))
    #expect(
      throws: StartFailure(
        "eth1: already served by \(name), pid \(getpid()); stop it or choose another --interface")
    ) {
      _ = try InterfaceOwner("eth1", index: InterfaceOwnerTests.unusedIndex)
    }
    _ = consume first
  }

  @Test("an interface is free again when its owner goes")
  func handOver() throws {
    let index = InterfaceOwnerTests.unusedIndex + 1
    do { _ = try InterfaceOwner("eth1", index: index) }
    // A child that another test starts at this moment holds our descriptors until it runs.
    for _ in 0..<1000 {
      do throws(StartFailure) {
        _ = try InterfaceOwner("eth1", index: index)
        return
      } catch { usleep(10_000) }
    }
    _ = try InterfaceOwner("eth1", index: index)
  }

  @Test("different interfaces have different owners")
  func independent() throws {
    let first = try InterfaceOwner("eth1", index: InterfaceOwnerTests.unusedIndex + 2)
    let second = try InterfaceOwner("eth2", index: InterfaceOwnerTests.unusedIndex + 3)
    #expect(first.raw != second.raw)
  }

  @Test("any number of refused daemons get the owner's name, if it dismisses them")
  func manyCallers() throws {
    let index = InterfaceOwnerTests.unusedIndex + 4
    let owner = try InterfaceOwner("eth1", index: index)
    for _ in 0..<300 {
      do throws(StartFailure) {
        _ = try InterfaceOwner("eth1", index: index)
        Issue.record("two owners")
      } catch {
        guard error.description.contains("pid \(getpid())") else {
          Issue.record("\(error)")
          return
        }
      }
      owner.dismissCallers()
    }
  }
}
