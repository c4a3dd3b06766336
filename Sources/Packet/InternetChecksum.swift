// The checksum of IPv4, TCP and UDP (RFC 1071): the one's complement of the one's complement sum of
// 16-bit words.
//
// A sum is kept unfolded in 64 bits, of words in the byte order of memory: this sum does not mind
// which one that is, as long as the result is stored in the same (RFC 1071, 2 (B)).  32 bits are
// added at a time, since 2^32 and 2^16 are both 1 in this arithmetic.

public enum InternetChecksum {
  /// Sum of `count` bytes, at most 2^32; a last odd one is followed by a zero.
  @unsafe @inlinable
  public static func sum(_ bytes: UnsafeRawPointer, count: Int) -> UInt64 {
    var sum: UInt64 = 0
    var i = 0
    if count >= stride {
      var lanes = Lanes()
      while i &+ stride <= count {
        unsafe lanes.add(bytes.loadUnaligned(fromByteOffset: i, as: SIMD8<UInt64>.self))
        i &+= stride
      }
      sum = lanes.sum
    }
    while i &+ 8 <= count {
      unsafe add(bytes.loadUnaligned(fromByteOffset: i, as: UInt64.self), to: &sum)
      i &+= 8
    }
    if count & 4 != 0 {
      unsafe sum &+= UInt64(bytes.loadUnaligned(fromByteOffset: i, as: UInt32.self))
      i &+= 4
    }
    if count & 2 != 0 {
      unsafe sum &+= UInt64(bytes.loadUnaligned(fromByteOffset: i, as: UInt16.self))
      i &+= 2
    }
    if count & 1 != 0 { unsafe sum &+= UInt64(bytes.load(fromByteOffset: i, as: UInt8.self)) }
    return sum
  }

  /// Copies `count` bytes, at most 2^32, and sums them on the way: what is summed is what was
  /// copied, even if somebody writes there meanwhile, but for a race with a word of its own.
  @unsafe @inlinable
  public static func copy(
    _ source: UnsafeRawPointer, to destination: UnsafeMutableRawPointer, count: Int
  ) -> UInt64 {
    var sum: UInt64 = 0
    var i = 0
    if count >= stride {
      var lanes = Lanes()
      while i &+ stride <= count {
        let words = unsafe source.loadUnaligned(fromByteOffset: i, as: SIMD8<UInt64>.self)
        unsafe destination.storeBytes(of: words, toByteOffset: i, as: SIMD8<UInt64>.self)
        lanes.add(words)
        i &+= stride
      }
      sum = lanes.sum
    }
    while i &+ 8 <= count {
      let word = unsafe source.loadUnaligned(fromByteOffset: i, as: UInt64.self)
      unsafe destination.storeBytes(of: word, toByteOffset: i, as: UInt64.self)
      add(word, to: &sum)
      i &+= 8
    }
    if count & 4 != 0 {
      let word = unsafe source.loadUnaligned(fromByteOffset: i, as: UInt32.self)
      unsafe destination.storeBytes(of: word, toByteOffset: i, as: UInt32.self)
      sum &+= UInt64(word)
      i &+= 4
    }
    if count & 2 != 0 {
      let word = unsafe source.loadUnaligned(fromByteOffset: i, as: UInt16.self)
      unsafe destination.storeBytes(of: word, toByteOffset: i, as: UInt16.self)
      sum &+= UInt64(word)
      i &+= 2
    }
    if count & 1 != 0 {
      let byte = unsafe source.load(fromByteOffset: i, as: UInt8.self)
      unsafe destination.storeBytes(of: byte, toByteOffset: i, as: UInt8.self)
      sum &+= UInt64(byte)
    }
    return sum
  }

  /// Bytes that are summed at once.
  @inlinable static var stride: Int { @inline(__always) get { 64 } }

  /// Eight sums side by side.
  @frozen @usableFromInline
  struct Lanes {
    @usableFromInline var low = SIMD8<UInt64>(repeating: 0)
    @usableFromInline var high = SIMD8<UInt64>(repeating: 0)

    @inlinable @inline(__always)
    init() {}

    @inlinable @inline(__always)
    mutating func add(_ words: SIMD8<UInt64>) {
      low &+= words & SIMD8(repeating: 0xffff_ffff)
      high &+= words &>> SIMD8(repeating: 32)
    }

    @inlinable
    var sum: UInt64 {
      @inline(__always) get { low.wrappedSum() &+ high.wrappedSum() }
    }
  }

  @inlinable @inline(__always)
  static func add(_ word: UInt64, to sum: inout UInt64) {
    sum &+= (word & 0xffff_ffff) &+ (word &>> 32)
  }

  /// As 16 bits; not complemented.
  @inlinable @inline(__always)
  public static func fold(_ sum: UInt64) -> UInt16 {
    // Both halves added to each other: the upper one gets the carry of the lower.
    let words = UInt32(truncatingIfNeeded: (sum &+ (sum &<< 32 | sum &>> 32)) &>> 32)
    return UInt16(truncatingIfNeeded: (words &+ (words &<< 16 | words &>> 16)) &>> 16)
  }

  /// What `sum` adds to a total if its bytes begin at an odd place of it.
  @inlinable
  public static func atOddPlace(_ sum: UInt64) -> UInt64 { UInt64(fold(sum).byteSwapped) }

  /// What 16 bits in host byte order add to a sum.
  @inlinable
  public static func word(_ value: UInt16) -> UInt64 { UInt64(value.bigEndian) }

  /// The checksum itself, as it is stored.
  @inlinable @inline(__always)
  public static func checksum(_ sum: UInt64) -> UInt16 { ~fold(sum) }

  /// As above for UDP, where 0 would say that there is none (RFC 768), so the other one of the two zeroes
  /// of this arithmetic is stored.
  @inlinable @inline(__always)
  public static func nonzeroChecksum(_ sum: UInt64) -> UInt16 {
    let value = checksum(sum)
    return value == 0 ? 0xffff : value
  }
}
