// The cell that the data path keeps its state in.
//
// A struct of trivial fields is copied whole by every un-inlined `borrowing` call, and a class
// property costs an exclusivity check per access; either is several times the price of the work
// itself.  So hot state lives in one allocation that never moves, behind an 8-byte handle that is
// stored as a `let` and passed by value.

/// Owns one heap allocation of `Value`, aligned to a cache line.
///
/// It is handed from thread to thread (a queue is built by the control plane and runs on a
/// worker), and at any time exactly one thread uses it; that ownership, not a lock, is what makes
/// the unchecked conformance true.
@safe @frozen
public struct HotState<Value: ~Copyable>: ~Copyable, @unchecked Sendable {
  @usableFromInline let pointer: UnsafeMutablePointer<Value>

  public init(_ value: consuming Value) {
    let raw = UnsafeMutableRawPointer.allocate(
      byteCount: max(MemoryLayout<Value>.size, 1), alignment: max(MemoryLayout<Value>.alignment, 64)
    )
    unsafe pointer = raw.bindMemory(to: Value.self, capacity: 1)
    unsafe pointer.initialize(to: value)
  }

  deinit {
    unsafe pointer.deinitialize(count: 1)
    unsafe pointer.deallocate()
  }

  /// The state, in place.
  @inlinable
  public var value: Value {
    @inline(__always) unsafeAddress { unsafe UnsafePointer(pointer) }
    @inline(__always) nonmutating unsafeMutableAddress { unsafe pointer }
  }
}
