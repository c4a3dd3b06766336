// A bounds-checked array of fixed length that never reallocates, counts no references and has no
// exclusivity checks: what the data path uses where other code would use an Array.

@safe @frozen
public struct FixedBuffer<Element: BitwiseCopyable>: ~Copyable, @unchecked Sendable {
  @usableFromInline let elements: UnsafeMutablePointer<Element>
  public let count: Int

  public init(repeating value: Element, count: Int) {
    precondition(count >= 0)
    self.count = count
    unsafe elements = .allocate(capacity: max(1, count))
    unsafe elements.initialize(repeating: value, count: count)
  }

  deinit { unsafe elements.deallocate() }

  /// Indices are always ours: one out of range is a bug and traps.
  @inlinable
  public subscript(index: Int) -> Element {
    @inline(__always) get {
      precondition(UInt(bitPattern: index) < UInt(bitPattern: count))
      return unsafe elements[index]
    }
    @inline(__always) nonmutating set {
      precondition(UInt(bitPattern: index) < UInt(bitPattern: count))
      unsafe elements[index] = newValue
    }
  }
}
