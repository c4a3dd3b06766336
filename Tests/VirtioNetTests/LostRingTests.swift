// A guest that writes what cannot be, and memory that is taken away under its rings.
import Glibc
import GuestDriver
import GuestMemory
import HostPort
import Linux
import Synchronization
import Testing
import VhostUser
import VirtioNet
import Virtqueue

@Suite("Rings that are impossible, and memory that is taken away")
struct LostRingTests {
  private final class Lines: Sendable {
    let all = Mutex<[String]>([])
  }

  /// Pair 0 of a device, whose log can be read, in memory that raises `peer`.
  private final class Scene {
    let lines = Lines()
    let peer = PeerAlarm()
    let ram: GuestRAM
    let memory: GuestMemory
    let device: NetDevice
    let driver: DriverQueue
    let kick: EventDescriptor
    let error: EventDescriptor

    init() throws {
      ram = try GuestRAM(bytes: 1 << 20)
      let file = try ram.duplicateFile()
      memory = try GuestMemory([try MemoryRegion(ram.descriptions[0], file: file, of: peer)])
      device = try NetDevice(port: try ScriptedPort(), queuePairs: 1, cpus: []) { [lines] line in
        lines.all.withLock { $0.append(line) }
      }
      driver = DriverQueue(in: ram, size: 64, features: .version1)
      kick = try EventDescriptor()
      error = try EventDescriptor()
    }

    deinit {
      _ = device.stopQueue(1)
      device.stop()
    }

    func start() {
      device.startQueue(
        driver.config(index: 1, memory: memory, kick: kick, call: nil, error: error))
    }

    var faults: Int {
      let report = device.counterReport.split(separator: "\n")
      guard let line = report.first(where: { $0.hasPrefix("transmit 0:") }),
        let place = line.firstRange(of: "ring_faults ")
      else { return 0 }
      return Int(line[place.upperBound...].prefix(while: \.isNumber)) ?? 0
    }
  }

  @Test("a ring that becomes impossible is logged once, counted, and its error signalled once")
  func impossible() throws {
    let scene = try Scene()
    scene.start()
    scene.driver.pokeAvailIndex(1000)
    for _ in 0..<20 {
      scene.kick.signal()
      usleep(2000)
    }
    #expect(eventually { scene.error.drain() })
    // The line comes after the signal.
    #expect(eventually { scene.lines.all.withLock { !$0.isEmpty } })
    usleep(20_000)
    #expect(!scene.error.drain())
    #expect(scene.faults == 1)
    let lines = scene.lines.all.withLock { $0 }
    #expect(lines.count == 1 && lines[0].hasPrefix("ring 1 stopped: avail.idx"))
  }

  @Test("one that cannot start is counted too")
  func refused() throws {
    let scene = try Scene()
    var config = scene.driver.config(index: 1, memory: scene.memory, error: scene.error)
    config.usedRing = FrontEndAddress(16)
    scene.device.startQueue(config)
    #expect(scene.error.drain())
    #expect(scene.faults == 1)
  }

  @Test("what is in the place of memory that was taken away is no fault of a ring")
  func cut() throws {
    let scene = try Scene()
    scene.driver.add([.init(scene.ram.allocate(72), 72)])
    scene.start()
    _ = scene.driver.publish()
    scene.kick.signal()
    #expect(eventually { scene.driver.publishedUsedIndex == 1 })
    let raw = scene.ram.fileNumber
    // From now on nobody here may touch it.
    try checkedCall { ftruncate(raw, 0) }
    #expect(
      eventually {
        scene.kick.signal()
        return scene.peer.reasons == .memoryLost
      })
    usleep(50_000)
    #expect(scene.faults == 0)
    #expect(scene.lines.all.withLock { $0 } == [])
    #expect(!scene.error.drain())
  }
}
