// How long the control queue keeps the control thread.
import Glibc
import GuestDriver
import GuestMemory
import Testing
import Virtqueue

@testable import VirtioNet

@Suite("A turn of the control queue")
struct ControlTurnTests {
  @Test("commands that take long are not all carried out in one turn, and none is forgotten")
  func slowCommands() throws {
    let ram = try GuestRAM()
    let features: VirtioFeatures = [.version1, .ctrlVq, .ctrlRx]
    let driver = DriverQueue(in: ram, size: 256, features: features)
    let queue = try ControlQueue(driver.config(memory: try ram.memory()))
    let command = ram.allocate(4)
    ram.write([0, 0, 1], at: command)
    for _ in 0..<32 {
      let answer = DriverQueue.Buffer(GuestAddress(command.value + 3), 1, writable: true)
      #expect(driver.add([.init(command, 3), answer]) != nil)
    }
    driver.publish()
    var carriedOut = 0
    var turns = 0
    var hasMore = true
    while hasMore {
      let former = carriedOut
      hasMore = queue.serve(
        perform: { _ in
          usleep(5000)
          carriedOut += 1
          return true
        }, refused: { refusal, _ in Issue.record("\(refusal)") })
      turns += 1
      // 20 ms, by a clock that is a few milliseconds exact.
      #expect(carriedOut - former <= 8)
    }
    #expect(carriedOut == 32)
    #expect(turns >= 4)
    #expect(try driver.allUsed().count == 32)
  }
}
