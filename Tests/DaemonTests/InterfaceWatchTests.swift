import Linux
import Testing

@testable import vhost_user_xdp

@Suite("What becomes of a served interface")
struct InterfaceWatchTests {
  private func watch(program: Int? = 7) -> InterfaceWatch {
    InterfaceWatch(name: "eth1", program: program, mtu: 1500, queues: 2)
  }

  private func state(mtu: Int = 1500, _ programs: Set<Int> = [7]) -> LinkState {
    LinkState(isUp: true, hasCarrier: true, mtu: mtu, programs: programs)
  }

  @Test("nothing is said while nothing changes, whatever else is attached beside the program")
  func unchanged() throws {
    var watch = watch()
    #expect(try watch.look(at: state(), queueEnd: 2) == [])
    #expect(try watch.look(at: state([7, 9]), queueEnd: 1) == [])
    var unknown = self.watch(program: nil)
    #expect(try unknown.look(at: state([]), queueEnd: nil) == [])
  }

  @Test("without its program the daemon ends, and says what is in its place")
  func program() {
    var watch = watch()
    #expect {
      try watch.look(at: state([]), queueEnd: 2)
    } throws: {
      "\($0)".contains("the XDP program of eth1 was detached by somebody")
        && "\($0)".contains("start again")
    }
    #expect {
      try watch.look(at: state([9]), queueEnd: 2)
    } throws: { "\($0)".contains("was replaced by another one, id 9") }
  }

  @Test("a larger MTU is a warning, another one a notice, each once")
  func mtu() throws {
    var watch = watch()
    guard case .warning(let line)? = try watch.look(at: state(mtu: 9000), queueEnd: 2).first else {
      Issue.record("no warning")
      return
    }
    #expect(line.contains("eth1 has MTU 9000 now and was started with 1500"))
    #expect(try watch.look(at: state(mtu: 9000), queueEnd: 2) == [])
    #expect(try watch.look(at: state(), queueEnd: 2) == [.notice("eth1 has MTU 1500 again")])
  }

  @Test("more queues than are served are a warning, once, and fewer than that are none")
  func queues() throws {
    var watch = watch()
    guard case .warning(let line)? = try watch.look(at: state(), queueEnd: 4).first else {
      Issue.record("no warning")
      return
    }
    let text = "eth1 has 4 queues now, packets on those from 2 on do not reach the guest"
    #expect(line.contains(text))
    #expect(try watch.look(at: state(), queueEnd: 4) == [])
    #expect(try watch.look(at: state(), queueEnd: 1) == [.notice("eth1 has 2 queues again")])
  }
}
