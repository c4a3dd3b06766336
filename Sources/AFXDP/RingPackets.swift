// How many packets wait in a ring of packet descriptors, RX or TX: for counters.
//
// Both indices lie in the memory of the ring, so any thread may look.  Producer and consumer move
// meanwhile; the number is one that there was, or nearly.
import SharedRing

extension ConsumerRing {
  /// Of the RX ring: packets that have arrived and were not taken.
  public var packetCount: Int {
    let (first, end) = unsafe (memory.consumer.acquire32(0), memory.producer.acquire32(0))
    return (0..<min(end &- first, size)).count { !descriptor(at: first &+ $0).continues }
  }
}

extension ProducerRing {
  /// Of the TX ring: packets that the kernel has not taken.
  public var packetCount: Int { unsafe ConsumerRing(memory).packetCount }
}
