// Every state in which a process that is killed can leave memory: what `StoreSteps` saw.
import StoreSteps

/// Ranges of shared memory, traced and put back.
@safe
struct WatchedMemory {
  let ranges: [UnsafeMutableRawBufferPointer]

  var byteCount: Int { unsafe ranges.reduce(0) { $0 + $1.count } }

  /// The states of the ranges while `body` runs, after every store, the first and the last
  /// included; nil where code cannot be traced.
  func states(most: Int = 4096, during body: () -> Void) -> [[UInt8]]? {
    let bytes = byteCount
    let log = UnsafeMutableRawBufferPointer.allocate(byteCount: bytes * most, alignment: 8)
    defer { unsafe log.deallocate() }
    var bases: [UnsafeMutableRawPointer?] = unsafe ranges.map { $0.baseAddress }
    var lengths = unsafe ranges.map { $0.count }
    guard
      unsafe store_steps_begin(
        &bases, &lengths, Int32(lengths.count), log.baseAddress!, most) == 0
    else { return nil }
    body()
    let count = store_steps_end()
    precondition(count > 0, "more states than there is room for")
    return (0..<count).map { unsafe Array(log[$0 * bytes..<($0 + 1) * bytes]) }
  }

  /// Makes the ranges what they were in a state.
  func restore(_ state: [UInt8]) {
    var offset = 0
    for i in unsafe ranges.indices {
      let count = unsafe ranges[i].count
      unsafe ranges[i].copyBytes(from: state[offset..<offset + count])
      offset += count
    }
  }
}
