// What inputs of chain-fuzz must come to: every kind of chain in both formats, and every defect.
import Fuzzing
import Virtqueue

enum Goal: Int, CaseIterable {
  /// A chain that is taken, with bytes in it.
  case splitDirect, splitTable, packedDirect, packedTable
  /// A ring that stops.
  case splitFault, packedFault
  case splitLoop, splitNextOutOfRange, splitWrongDirection, splitUnmapped, splitBadIndirectTable,
    splitBadIndirectFlags, splitTooManyBuffers
  case packedWrongDirection, packedUnmapped, packedBadIndirectTable, packedBadIndirectFlags,
    packedTooManyBuffers

  /// Nil: a chain of 4 GiB does not fit the buffers here, and a packed ring knows no `next`.
  init?(_ defect: ChainDefect, isPacked: Bool) {
    switch defect {
    case .loop where !isPacked: self = .splitLoop
    case .nextOutOfRange where !isPacked: self = .splitNextOutOfRange
    case .wrongDirection: self = isPacked ? .packedWrongDirection : .splitWrongDirection
    case .unmapped: self = isPacked ? .packedUnmapped : .splitUnmapped
    case .badIndirectTable: self = isPacked ? .packedBadIndirectTable : .splitBadIndirectTable
    case .badIndirectFlags: self = isPacked ? .packedBadIndirectFlags : .splitBadIndirectFlags
    case .tooManyBuffers: self = isPacked ? .packedTooManyBuffers : .splitTooManyBuffers
    default: return nil
    }
  }
}

let goals = Goals(Goal.self)
