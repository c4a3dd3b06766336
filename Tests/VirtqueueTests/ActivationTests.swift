// The checks that a configuration passes once, before the ring is ever touched.
import GuestDriver
import GuestMemory
import Linux
import Testing
import Virtqueue

@Suite("Activating a virtqueue")
struct ActivationTests {
  private let ram: GuestRAM
  private let config: VirtqueueConfig

  init() throws {
    ram = try GuestRAM(bytes: 1 << 20)
    let driver = DriverQueue(in: ram, size: 256)
    config = driver.config(memory: try ram.memory())
  }

  private func fault(_ change: (inout VirtqueueConfig) -> Void) -> QueueFault? {
    var config = self.config
    change(&config)
    do throws(QueueFault) {
      let queue = try AnyVirtqueue(activating: config)
      _ = queue.base
      return nil
    } catch { return error }
  }

  @Test("a size that is not a power of two up to 32768 is refused")
  func size() {
    for size in [Int.min, -1, 0, 3, 6, 100, 255, 257, 32769, 65536, Int.max] {
      #expect(fault { $0.size = size } == .badSize, "\(size)")
    }
    for size in (0...8).map({ 1 << $0 }) { #expect(fault { $0.size = size } == nil, "\(size)") }
  }

  @Test("the largest ring runs")
  func largest() throws {
    let driver = DriverQueue(in: try GuestRAM(bytes: 2 << 20), size: 32768)
    let queue = try AnyVirtqueue(activating: driver.config(memory: try driver.ram.memory()))
    #expect(queue.size == 32768)
  }

  @Test("a misaligned ring address is refused")
  func alignment() {
    for offset in UInt64(1)..<16 {
      #expect(fault { $0.descriptorTable.value += offset } == .misalignedRing)
    }
    #expect(fault { $0.availRing.value += 1 } == .misalignedRing)
    for offset in UInt64(1)..<4 {
      #expect(fault { $0.usedRing.value += offset } == .misalignedRing)
    }
  }

  @Test("a ring in memory that is mapped at an odd place of its file is refused, not accessed")
  func oddOffset() throws {
    let whole = ram.descriptions[0]
    let odd = try MemoryRegion(
      MemoryRegionDescription(
        guest: whole.guest, size: whole.size - 4096, frontEnd: whole.frontEnd, offset: 1),
      file: try ram.duplicateFile())
    let memory = try GuestMemory([odd])
    #expect(fault { $0.memory = memory } == .misalignedRing)
  }

  @Test("a ring that does not lie in one memory region is refused")
  func outside() throws {
    let end = ram.descriptions[0].frontEnd.value + ram.descriptions[0].size
    for path in [
      \VirtqueueConfig.descriptorTable, \VirtqueueConfig.availRing, \VirtqueueConfig.usedRing,
    ] {
      for address in [0, end, end - 16, .max - 15] as [UInt64] {
        #expect(
          fault { $0[keyPath: path] = FrontEndAddress(address) } == .ringNotInMemory,
          "\(address)")
      }
    }
    #expect(fault { $0.memory = try! GuestMemory([]) } == .ringNotInMemory)
  }

  @Test("a ring may end with the last byte of memory, its event field included")
  func fits() {
    let end = ram.descriptions[0].frontEnd.value + ram.descriptions[0].size
    #expect(fault { $0.descriptorTable.value = end - 16 * 256 } == nil)
    #expect(fault { $0.availRing.value = end - (6 + 2 * 256) } == nil)
    #expect(fault { $0.availRing.value = end - (4 + 2 * 256) } == .ringNotInMemory)
    #expect(fault { $0.usedRing.value = end - (8 + 8 * 256) } == nil)
    #expect(fault { $0.usedRing.value = end - (4 + 8 * 256) } == .ringNotInMemory)
  }

  @Test("guest addresses are not taken for ring addresses")
  func guestAddresses() {
    #expect(fault { $0.descriptorTable = FrontEndAddress(4096) } == .ringNotInMemory)
  }

  @Test("both ring placements work, at any starting index")
  func placements() throws {
    for placement in [DriverQueue.Placement.modern, .legacy] {
      for start in [0, 1, 255, 256, 65535] as [UInt16] {
        let rig = try Rig(size: 4, start: start, placement: placement)
        let at = rig.ram.allocate(100)
        rig.ram.write(pattern(100), at: at)
        for _ in 0..<10 {
          rig.ring.add([.init(at, 100)])
          rig.ring.publish()
          #expect(rig.transmit() == .bytes(pattern(100)))
          #expect(try rig.ring.nextUsed() != nil)
        }
        #expect(rig.device.base == VringBase(split: start &+ 10))
      }
    }
  }

  @Test("a ring goes on where its used index says, whatever base the front-end names")
  func resumes() throws {
    let rig = try Rig(size: 16)
    let at = rig.ram.allocate(16)
    for i in 0..<5 { rig.ring.add([.init(at, UInt32(i + 1))]) }
    rig.ring.publish()
    for _ in 0..<2 { _ = rig.transmit() }
    // The process dies; two heads were returned, three were not.
    var config = rig.ring.config(memory: rig.memory)
    config.base = VringBase(split: 999)
    rig.device = try AnyVirtqueue(activating: config)
    #expect(rig.device.base == VringBase(split: 2))
    let waiting = rig.device.availableChains(16)
    #expect(waiting == 3)
    for i in 2..<5 { #expect(rig.transmit() == .bytes(rig.ram.read(at, count: i + 1))) }
    #expect(try rig.ring.allUsed().count == 5)
  }
}
