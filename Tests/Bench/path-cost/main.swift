// The data path without a kernel and without a clock: one worker, a port that makes packets up and
// drops them, and the driver side in the same thread.  Run under callgrind, which collects the
// worker's turns alone and writes a profile at the end of each row: path-cost.sh turns those into
// instructions per packet.
//
// Without arguments every row; with names of rows, those.
import GuestDriver
import GuestMemory
import HostPort
import Linux
import Virtqueue

import VirtioNet

/// Where callgrind writes a profile and begins anew.
@inline(never) @_optimize(none)
func rowEnds(_ row: Int) {}

let packets = 12_800
let rows = Row.all
let wanted = Set(CommandLine.arguments.dropFirst())
if wanted == ["--list"] {
  rows.forEach { print($0.name) }
} else {
  for row in rows where wanted.isEmpty || wanted.contains(row.name) {
    let moved = try row.run(packets: packets)
    guard moved == packets else { fatalError("\(row.name): \(moved) of \(packets) packets moved") }
    print(row.name, packets)
    rowEnds(0)
  }
}
