// Ordered access to memory that is shared with a guest or the kernel.
//
// Both sides run at the same time, so every read here is exactly one machine load: a value that
// was read is a local, and the local is what gets checked and used.  A plain `load(as:)` may be
// repeated by the optimizer after the check; it has no place on shared memory.
//
// The orderings used in this project, and their partners:
//   acquire       reads the other side's published index, or a packed descriptor's flags; pairs
//                 with its release store, so that what was written before is visible after it.
//   release       publishes our index after our entries, or our first used descriptor after the
//                 others.
//   fence         StoreLoad, between publishing and reading the other side's wish to be
//                 notified (and the mirror image); release/acquire alone lose wake-ups here.
//   order         between stores that a successor of this process, and nobody else, will read.
//   relaxed       entries that an acquire has made visible already.
//
// They order accesses between CPUs that see one coherent memory, which is all that a driver and
// this process ever are.  A driver with ORDER_PLATFORM uses stronger ones (those for a real
// device), which imply these (virtio 1.3, 6).
public import CLinux

extension UnsafeMutableRawPointer {
  @inlinable @inline(__always)
  public func acquire16(_ offset: Int) -> UInt16 { unsafe shared_load16_acquire(self + offset) }
  @inlinable @inline(__always)
  public func relaxed16(_ offset: Int) -> UInt16 { unsafe shared_load16_relaxed(self + offset) }
  @inlinable @inline(__always)
  public func acquire32(_ offset: Int) -> UInt32 { unsafe shared_load32_acquire(self + offset) }
  @inlinable @inline(__always)
  public func relaxed32(_ offset: Int) -> UInt32 { unsafe shared_load32_relaxed(self + offset) }
  @inlinable @inline(__always)
  public func acquire64(_ offset: Int) -> UInt64 { unsafe shared_load64_acquire(self + offset) }
  @inlinable @inline(__always)
  public func relaxed64(_ offset: Int) -> UInt64 { unsafe shared_load64_relaxed(self + offset) }

  @inlinable @inline(__always)
  public func release16(_ offset: Int, _ value: UInt16) {
    unsafe shared_store16_release(self + offset, value)
  }
  @inlinable @inline(__always)
  public func storeRelaxed16(_ offset: Int, _ value: UInt16) {
    unsafe shared_store16_relaxed(self + offset, value)
  }
  @inlinable @inline(__always)
  public func release32(_ offset: Int, _ value: UInt32) {
    unsafe shared_store32_release(self + offset, value)
  }
  @inlinable @inline(__always)
  public func storeRelaxed32(_ offset: Int, _ value: UInt32) {
    unsafe shared_store32_relaxed(self + offset, value)
  }
  @inlinable @inline(__always)
  public func release64(_ offset: Int, _ value: UInt64) {
    unsafe shared_store64_release(self + offset, value)
  }
  @inlinable @inline(__always)
  public func storeRelaxed64(_ offset: Int, _ value: UInt64) {
    unsafe shared_store64_relaxed(self + offset, value)
  }
}

/// Full memory fence: orders an earlier store before a later load.
@inlinable @inline(__always)
public func sharedMemoryFence() { shared_fence() }

/// Program order of stores for who reads them after this process was killed; costs no instruction.
@inlinable @inline(__always)
public func sharedStoreOrder() { shared_order() }

/// Asks the CPU to have the cache line of `bytes` near; any address will do.
@unsafe @inlinable @inline(__always)
public func prefetchForReading(_ bytes: UnsafeRawPointer) { unsafe shared_prefetch(bytes) }

/// As above, for nobody else: they are going to be written.
@unsafe @inlinable @inline(__always)
public func prefetchForWriting(_ bytes: UnsafeRawPointer) { unsafe shared_prefetch_to_write(bytes) }

/// Tells the core that this thread spins.
@inlinable @inline(__always)
public func spinPause() { shared_pause() }
