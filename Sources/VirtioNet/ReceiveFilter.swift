// The receive filter of a worker: drops what the guest's driver does not want, before it costs the
// guest a buffer.
//
// Without a control queue, or with a promiscuous driver, it costs one look for each batch.  Else it
// costs each frame a look at its first 16 bytes and a search in a sorted table: bounded, whatever
// addresses a driver or a sender thinks up.
//
// Only one thread uses it, the worker; it is set between two turns.
package import HostPort
package import Packet
import SharedRing

package final class ReceiveFilter {
  private struct State {
    var passesAll = true
    var filtersAddresses = false
    var filtersVLANs = false
    var passesUnicast = false
    var passesMulticast = false
    var dropsUnicast = false
    var dropsMulticast = false
    var dropsBroadcast = false
    var address: UInt64 = 0
    /// Addresses in `table`.
    var count = 0
  }
  private let state = HotState(State())
  /// Ascending; unicast and multicast addresses differ anyway.
  private let table = FixedBuffer<UInt64>(repeating: 0, count: 2 * ReceiveMode.tableLimit)
  private let vlans = FixedBuffer<UInt64>(repeating: 0, count: 64)

  package init() {}

  package func set(_ mode: ReceiveMode) {
    let addresses = (mode.unicast + mode.multicast).sorted()
    for (i, address) in addresses.enumerated() { table[i] = address }
    for (i, word) in mode.vlans.enumerated() { vlans[i] = word }
    let promiscuous = mode.filtersAddresses && mode.promiscuous
    state.value = State(
      passesAll: promiscuous || !mode.filtersAddresses && !mode.filtersVLANs,
      filtersAddresses: mode.filtersAddresses, filtersVLANs: mode.filtersVLANs,
      passesUnicast: mode.allUnicast || mode.unicastOverflow,
      passesMulticast: mode.allMulticast || mode.multicastOverflow,
      dropsUnicast: mode.noUnicast, dropsMulticast: mode.noMulticast,
      dropsBroadcast: mode.noBroadcast, address: mode.address, count: addresses.count)
  }

  /// Nothing needs to be looked at.
  package var passesAll: Bool { @inline(__always) get { state.value.passesAll } }

  @inline(__always)
  package func admits(_ frame: FrameAddressing) -> Bool {
    if state.value.filtersVLANs, let vlan = frame.vlan,
      vlans[Int(vlan &>> 6)] &>> UInt64(vlan & 63) & 1 == 0
    {
      return false
    }
    if !state.value.filtersAddresses { return true }
    if frame.isBroadcast { return !state.value.dropsBroadcast }
    if frame.isMulticast {
      if state.value.dropsMulticast { return false }
      return state.value.passesMulticast || isInTable(frame.destination)
    }
    if state.value.dropsUnicast { return false }
    return state.value.passesUnicast || frame.destination == state.value.address
      || isInTable(frame.destination)
  }

  @inline(__always)
  private func isInTable(_ address: UInt64) -> Bool {
    var low = 0
    var high = state.value.count
    while low < high {
      let middle = (low &+ high) &>> 1
      let entry = table[middle]
      if entry == address { return true }
      if entry < address { low = middle &+ 1 } else { high = middle }
    }
    return false
  }

  /// Moves the frames that nobody wants from `batch` to `unwanted`, which has room for all.
  package func sift(_ batch: borrowing FrameBatch, into unwanted: borrowing FrameBatch) {
    let count = batch.count
    var kept = 0
    // The first frame of a packet decides on all of them.
    var isWanted = false
    var isFirst = true
    for i in 0..<count {
      let frame = unsafe batch[i]
      if isFirst {
        let addressing = unsafe FrameAddressing(
          low: frame.data.loadUnaligned(as: UInt64.self),
          high: frame.data.loadUnaligned(fromByteOffset: 8, as: UInt64.self),
          length: Int(frame.length))
        isWanted = admits(addressing)
      }
      unsafe isFirst = !frame.continues
      if isWanted {
        unsafe batch[kept] = frame
        kept &+= 1
      } else {
        unsafe unwanted.append(frame)
      }
    }
    batch.removeLast(keeping: kept)
  }
}
