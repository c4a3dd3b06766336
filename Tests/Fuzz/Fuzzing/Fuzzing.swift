// What the fuzzers share: the way into libFuzzer, and goals.
//
// A goal is something that inputs must come to, a kind of chain or a request that was carried out.  A
// fuzzer whose inputs all fail at the door finds nothing and looks well; so each says at its end which
// of its goals no input reached, and `fuzz.sh` takes one that is left for a failure.
import Glibc

@_silgen_name("LLVMFuzzerRunDriver")
func runDriver(
  _ count: UnsafeMutablePointer<CInt>,
  _ arguments: UnsafeMutablePointer<UnsafeMutablePointer<UnsafeMutablePointer<CChar>?>>,
  _ body: @convention(c) (UnsafePointer<UInt8>, Int) -> CInt
) -> CInt

/// What inputs must come to, by name.  One thread reaches them.
@safe
public final class Goals: @unchecked Sendable {
  private let names: [String]
  private var isReached: [Bool]

  public init(_ names: [String]) {
    self.names = names
    isReached = Array(repeating: false, count: names.count)
  }

  public func reach(_ goal: Int) { isReached[goal] = true }

  public func reach(_ name: String) {
    if let goal = names.firstIndex(of: name) { isReached[goal] = true }
  }

  fileprivate var report: String {
    let missing = names.indices.filter { !isReached[$0] }.map { names[$0] }
    return missing.isEmpty
      ? "goals: all \(names.count) reached"
      : "goals: not reached: \(missing.joined(separator: ", "))"
  }
}

extension Goals {
  /// One goal for each case.
  public convenience init<Goal: CaseIterable>(_: Goal.Type) {
    self.init(Goal.allCases.map { "\($0)" })
  }

  public func reach<Goal: RawRepresentable>(_ goal: Goal) where Goal.RawValue == Int {
    reach(goal.rawValue)
  }
}

@safe
private struct Target: Sendable {
  let goals: Goals
  let body: @Sendable (UnsafeRawBufferPointer) -> Void
}

nonisolated(unsafe) private var target: Target?

/// Gives libFuzzer the process: `body` is called with each input.
public func fuzz(_ goals: Goals, _ body: @escaping @Sendable (UnsafeRawBufferPointer) -> Void) {
  unsafe target = Target(goals: goals, body: body)
  // libFuzzer ends the process itself.
  atexit { unsafe print(target!.goals.report) }
  var count = CommandLine.argc
  var arguments = unsafe CommandLine.unsafeArgv
  _ = unsafe runDriver(&count, &arguments) { bytes, length in
    unsafe target!.body(UnsafeRawBufferPointer(start: bytes, count: length))
    return 0
  }
}

/// Ends the process if something that must hold does not.
public func require(_ condition: Bool, _ what: @autoclosure () -> String) {
  guard condition else { fatalError(what()) }
}

/// An input, from its front: numbers and runs of bytes; beyond the end there are zeros.
public struct Input {
  private var rest: ArraySlice<UInt8>

  public init(_ bytes: UnsafeRawBufferPointer) { rest = unsafe Array(bytes)[...] }

  public var isEmpty: Bool { rest.isEmpty }
  public mutating func byte() -> UInt8 { rest.popFirst() ?? 0 }
  public mutating func half() -> UInt16 { UInt16(byte()) | UInt16(byte()) << 8 }
  public mutating func word() -> UInt64 {
    (0..<8).reduce(0) { $0 | UInt64(byte()) << UInt64(8 * $1) }
  }
  /// As many bytes, or as many as there are.
  public mutating func bytes(_ count: Int) -> [UInt8] {
    defer { rest = rest.dropFirst(count) }
    return Array(rest.prefix(count))
  }
}
