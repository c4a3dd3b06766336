// The buffers of a command: what the driver wrote, and behind it, in the same chain, where the
// device answers (virtio 1.3, 2.7.4.2: readable buffers come first).
//
// For queues of commands, not of packets: the bytes of a command are copied into an array once and
// looked at there.

public struct CommandBuffers: ~Copyable {
  let buffers: DeviceReadableBuffers

  /// - Parameter capacity: most runs of memory; a chain with more is malformed.
  public init(capacity: Int) { buffers = DeviceReadableBuffers(answeredWithCapacity: capacity) }

  /// Bytes that the driver wrote.
  public var commandSize: Int { buffers.list.readableBytes }
  /// Bytes that the device may write.
  public var answerSize: Int { buffers.byteCount - commandSize }

  /// The command, or its beginning.
  public func command(limit: Int) -> [UInt8] {
    var bytes = [UInt8](repeating: 0, count: min(commandSize, limit))
    unsafe bytes.withUnsafeMutableBytes {
      if let base = $0.baseAddress { unsafe buffers.copyRuns(from: 0, length: $0.count, to: base) }
    }
    return bytes
  }

  /// Writes the first byte of the answer, which must have one.
  public func answer(_ byte: UInt8) {
    unsafe buffers.list.forEachPiece(from: commandSize, length: 1) { base, _ in
      unsafe base.storeBytes(of: byte, as: UInt8.self)
    }
  }

  /// The first byte of the answer was written.
  func markAnswer(in log: borrowing WriteLog) {
    unsafe buffers.list.forEachPiece(from: commandSize, length: 1) { base, length in
      unsafe log.mark(base, length: length)
    }
  }
}

extension Virtqueue where Self: ~Copyable {
  /// Collects the chain at `position`; what was in `command` before is forgotten.
  public func collect(
    at position: inout QueuePosition, into command: borrowing CommandBuffers
  ) -> ChainOutcome {
    command.buffers.list.forgetTurn()
    return collect(at: &position, into: command.buffers)
  }
}
