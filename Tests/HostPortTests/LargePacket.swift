// A packet that is to be cut, and how it is handed to a port queue.
import AFXDP
import Glibc
import Linux
import Packet
import SharedRing
import Testing

@testable import HostPort

/// A large TCP packet as it is sent uncut: Ethernet, IPv4, TCP, and as much payload.
struct LargePacket {
  var bytes: [UInt8]
  var header = VirtioNetHeader(low: 0, high: 0)

  init(payload: Int, number: Int = 0) {
    func word(_ value: Int) -> [UInt8] { [UInt8(value >> 8 & 0xff), UInt8(value & 0xff)] }
    var ip: [UInt8] = [0x45, 0] + word(40 + payload) + [0, 0, 0x40, 0, 64, 6, 0, 0]
    ip += [192, 0, 2, 1, 192, 0, 2, 2]
    let tcp = word(1) + word(2) + word(number >> 16) + word(number) + word(0) + word(0)
    let link = [2, 0, 0, 0, 0, 2, 2, 0, 0, 0, 0, 1, 8, 0] as [UInt8]
    let rest = word(0x5010) + word(256) + word(0) + word(0)
    bytes = link + ip + tcp + rest + [UInt8](repeating: 0x5a, count: payload)
    header.flags = 1
    header.gsoType = 1
    header.headerLength = 54
    header.gsoSize = 1400
    header.checksumStart = 34
    header.checksumOffset = 16
  }

  /// - Parameter isTorn: its last byte lies where there is no memory.
  func send(by queue: any HostPortQueue, isTorn: Bool = false) -> BulkOutcome {
    let packet = GatheredPacket()
    let words = header.words
    packet.removeAll(header: words.low, words.high)
    return unsafe bytes.withUnsafeBytes {
      _ = unsafe packet.append($0.baseAddress!, count: 54)
      _ = unsafe packet.append($0.baseAddress! + 54, count: bytes.count - 55)
      let last = unsafe $0.baseAddress! + bytes.count - 1
      _ = unsafe packet.append(isTorn ? UnsafeRawPointer(bitPattern: 16)! : last, count: 1)
      return queue.sendUncut(packet, isRepeatable: true)
    }
  }
}

extension LargePacket {
  /// Sends it as soon as nothing is in its way: a busy machine may leave what went before on its way for a
  /// while.
  /// - Returns: whether it was taken, and how often it was to be cut before.
  func sendInTime(by queue: any HostPortQueue) -> (isTaken: Bool, cut: UInt64) {
    var cut: UInt64 = 0
    for _ in 0..<10_000 {
      switch send(by: queue) {
      case .taken: return (true, cut)
      case .cut: cut += 1
      case .wait: break
      }
      usleep(1000)
    }
    return (false, cut)
  }
}

/// Gives a link a queueing discipline that holds so many bytes, behind the first 70,000, and lets
/// hardly any go until ``speedUp(_:)``: a test that loses the CPU meanwhile finds it as it was.
func holdBack(_ interface: XDPInterface, holding bytes: Int, rate: String = "8kbit") {
  #expect(
    run("tc qdisc add dev \(interface.name) root tbf rate \(rate) burst 70000 limit \(bytes)"))
}

/// Lets what is held back go, with the next packet that is offered.
func speedUp(_ interface: XDPInterface, holding bytes: Int) {
  #expect(
    run("tc qdisc change dev \(interface.name) root tbf rate 50mbit burst 70000 limit \(bytes)"))
}

/// A queue that gives up nothing of what is held back.
func patientQueue(_ options: XDPPortOptions) throws -> XDPQueue {
  let queue = try #require(try XDPPort(options).openQueue(0) as? XDPQueue)
  queue.lane.state.value.patience = 60_000
  return queue
}
