// What a daemon holds: the measure of every fault. Whatever happened, afterwards it is what it was.
import Glibc
import Testing

struct Footprint: CustomStringConvertible {
  var descriptors: Int
  var mappings: Int
  var threads: Int
  /// Frames that are on their way.  Those that came when there was no guest any more wait in the RX ring
  /// for the next one, which does not get them.
  var framesInUse: Int
  /// Of its own, in KiB: guest memory becomes resident as the guest uses it.
  var resident: Int

  /// Of the allocator, not of a leak: a fault that leaked a page for each of a thousand rounds
  /// would be twice as much.
  static let residentSlack = 2048

  /// The C library keeps stack and heap of a thread that has ended, such as the one that closes what a
  /// peer has sent, for the next one.
  static let mappingsOfThread = 4

  func isBack(to before: Footprint, otherMappings: Int) -> Bool {
    descriptors == before.descriptors && threads == before.threads
      && abs(mappings - before.mappings) <= otherMappings
      && framesInUse <= before.framesInUse && resident <= before.resident + Footprint.residentSlack
  }

  var description: String {
    "\(descriptors) descriptors, \(mappings) mappings, \(threads) threads, "
      + "\(framesInUse) frames in use, \(resident) KiB"
  }
}

extension Daemon {
  /// To be asked for while no packet moves.
  var footprint: Footprint {
    get throws {
      // Of one report: a frame must not be in both numbers, or in neither.
      let counters = try counters()
      func sum(_ name: String) -> Int {
        counters.reduce(0) { $0 + ($1.name == name ? $1.value : 0) }
      }
      let folder = "/proc/\(pid)"
      let status = contents(of: folder + "/status").split(separator: "\n")
      let line = status.first { $0.hasPrefix("RssAnon:") }
      let resident = line?.split(separator: " ").dropFirst().first
      return Footprint(
        descriptors: descriptors,
        mappings: contents(of: folder + "/maps").utf8.count { $0 == UInt8(ascii: "\n") },
        threads: entries(in: folder + "/task"),
        framesInUse: sum("frames_in_use") - sum("rx_waiting"),
        resident: resident.flatMap { Int($0) } ?? 0)
    }
  }

  /// The measure that later ones are compared with: what a front-end has left, or sent, is closed by a
  /// thread of its own by and by, and whatever is counted until then never comes again.
  func settledFootprint() throws -> Footprint {
    var last = try footprint
    var since = now()
    try eventually(within: 60, "what it holds stands still") {
      sleep(0.1)
      let current = try footprint
      if (current.descriptors, current.mappings, current.threads, current.framesInUse)
        != (last.descriptors, last.mappings, last.threads, last.framesInUse)
      {
        since = now()
      }
      last = current
      return now() - since > 1
    }
    return last
  }

  /// The same of a daemon whose front-end has left.
  func idleFootprint() throws -> Footprint {
    try eventually(within: 30, "the guest's memory is unmapped", log: process.log) {
      guestMappings == 0
    }
    return try settledFootprint()
  }

  /// Waits until it holds what it held before, and no more.
  /// - Parameter otherMappings: how many more or fewer mappings are no matter.
  func expectFootprint(
    _ before: Footprint, within seconds: Double = 30, _ occasion: String,
    otherMappings: Int = Footprint.mappingsOfThread, location: SourceLocation = #_sourceLocation
  ) throws {
    var last = before
    do {
      try eventually(within: seconds, "\(before) again after \(occasion)") {
        last = try footprint
        return last.isBack(to: before, otherMappings: otherMappings)
      }
    } catch {
      Issue.record("after \(occasion): \(last), before: \(before)", sourceLocation: location)
    }
  }
}
