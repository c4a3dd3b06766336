// The counters of a NIC queue: ours, and beside them the kernel's (XDP_STATISTICS).
//
// Any thread may look.  What waits in a ring is told by the ring's own memory.
import AFXDP
import SharedRing
import Synchronization

extension XDPQueue {
  var statistics: PortStatistics {
    let kernel = socket.statistics
    func value(_ counter: borrowing Atomic<UInt64>) -> UInt64 { counter.load(ordering: .relaxed) }
    let counters = [
      ("rx_packets", value(received)),
      ("rx_waiting", UInt64(socket.rings.value.receive.packetCount)),
      ("tx_packets", value(transmitted)),
      ("tx_waiting", UInt64(socket.rings.value.transmit.packetCount)),
      ("rx_dropped", kernel.receiveDropped),
      ("rx_invalid_descs", kernel.receiveInvalid),
      ("rx_ring_full", kernel.receiveRingFull),
      ("rx_fill_ring_empty_descs", kernel.fillRingEmpty),
      ("tx_invalid_descs", kernel.transmitInvalid),
      ("device_refused", value(deviceRefused)),
      ("link_down", value(linkDown)),
      ("rx_too_long", value(tooLong)),
      ("rx_stray", value(strayPackets)),
      ("invalid_frames", value(invalidFrames)),
      ("wakeup_failed", value(wakeUpFailed)),
      ("stray_addresses", value(strays)),
      ("frames_in_use", value(framesInUse)),
    ]
    return PortStatistics(counters: counters + laneCounters)
  }

  /// Of the bulk lane; none without one.
  private var laneCounters: [(name: String, value: UInt64)] {
    guard lane.exists else { return [] }
    return [
      ("bulk_packets", bulkPackets.load(ordering: .relaxed)),
      ("bulk_frames", bulkFrames.load(ordering: .relaxed)),
      ("bulk_waiting", bulkWaiting.load(ordering: .relaxed)),
      ("bulk_busy", bulkBusy.load(ordering: .relaxed)),
      ("bulk_refused", bulkRefused.load(ordering: .relaxed)),
    ]
  }
}
