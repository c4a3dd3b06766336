// Strong references that are used without being counted.
//
// An Array of class instances costs a retain and a release whenever an element is used, an atomic
// pair per batch on the data path.  Here the list owns the objects, and using one borrows it: the
// object stays alive because the list does, and the list is changed only between two uses, by the
// one thread that owns it.

@safe @frozen
public struct PinnedList<Object: AnyObject>: ~Copyable {
  @unsafe @frozen @usableFromInline
  struct Storage {
    @usableFromInline var objects: UnsafeMutablePointer<Unmanaged<Object>>
    @usableFromInline var count: Int
    @usableFromInline var capacity: Int
  }
  @usableFromInline let storage: HotState<Storage>

  public init() {
    unsafe storage = HotState(Storage(objects: .allocate(capacity: 4), count: 0, capacity: 4))
  }

  deinit {
    for i in 0..<count { unsafe storage.value.objects[i].release() }
    unsafe storage.value.objects.deallocate()
  }

  @inlinable
  public var count: Int { @inline(__always) get { unsafe storage.value.count } }

  /// Calls `body` with each object, in order.  `body` must not change the list.
  @inlinable @inline(__always)
  public func forEach(_ body: (Object) -> Void) {
    for i in 0..<count { unsafe storage.value.objects[i]._withUnsafeGuaranteedRef(body) }
  }

  /// The first object that satisfies the predicate, as an ordinary reference.
  public func first(where predicate: (Object) -> Bool) -> Object? {
    for i in 0..<count {
      let object = unsafe storage.value.objects[i].takeUnretainedValue()
      if predicate(object) { return object }
    }
    return nil
  }

  public func append(_ object: Object) {
    if unsafe storage.value.count == storage.value.capacity { grow() }
    unsafe storage.value.objects[count] = Unmanaged.passRetained(object)
    unsafe storage.value.count += 1
  }

  /// Removes and returns the first object that satisfies the predicate.
  public func remove(where predicate: (Object) -> Bool) -> Object? {
    for i in 0..<count {
      let object = unsafe storage.value.objects[i].takeUnretainedValue()
      guard predicate(object) else { continue }
      unsafe storage.value.objects[i].release()
      for j in i + 1..<max(count, i + 1) {
        unsafe storage.value.objects[j - 1] = storage.value.objects[j]
      }
      unsafe storage.value.count -= 1
      return object
    }
    return nil
  }

  private func grow() {
    let capacity = unsafe storage.value.capacity * 2
    let objects = UnsafeMutablePointer<Unmanaged<Object>>.allocate(capacity: capacity)
    unsafe objects.initialize(from: storage.value.objects, count: count)
    unsafe storage.value.objects.deallocate()
    unsafe storage.value.objects = unsafe objects
    unsafe storage.value.capacity = capacity
  }
}
