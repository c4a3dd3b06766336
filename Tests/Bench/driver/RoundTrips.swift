// The times of round trips, exact to the nanosecond, in memory that recording hardly touches.
import SharedRing

struct RoundTrips: ~Copyable {
  /// Times below this are counted, one counter for each; those above are kept one by one.
  private static let counted = 1 << 16

  private let counts = FixedBuffer<UInt32>(repeating: 0, count: RoundTrips.counted)
  private var longer: [UInt64] = []
  private(set) var count = 0

  init() { longer.reserveCapacity(1 << 16) }

  @inline(__always)
  mutating func record(_ nanoseconds: UInt64) {
    count &+= 1
    if nanoseconds < UInt64(RoundTrips.counted) {
      counts[Int(nanoseconds)] &+= 1
    } else {
      longer.append(nanoseconds)
    }
  }

  /// The smallest recorded time that is not exceeded by this many thousandths of all; there must be
  /// one.
  mutating func quantile(thousandths: Int) -> UInt64 {
    var rank = max((count * thousandths + 999) / 1000, 1)
    for time in 0..<RoundTrips.counted {
      rank -= Int(counts[time])
      if rank <= 0 { return UInt64(time) }
    }
    longer.sort()
    return longer[rank - 1]
  }
}
