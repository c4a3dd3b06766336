// What the kernel makes of packets that a guest leaves to the device: the model for our own frames.
import Foundation

/// The kernel, asked by Tests/Kernel/segments.py.
func kernel(_ packets: [OffloadPacket]) throws -> [[String]?] {
  let process = Process()
  process.executableURL = URL(filePath: "/usr/bin/unshare")
  let script = URL(filePath: #filePath).deletingLastPathComponent()
    .appending(path: "../Kernel/segments.py")
  process.arguments = ["--net", "--mount", "python3", "-B", script.path]
  let (input, output) = (Pipe(), Pipe())
  process.standardInput = input
  process.standardOutput = output
  try process.run()
  let text = packets.map { $0.hexadecimal + "\n" }.joined()
  signal(SIGPIPE, SIG_IGN)
  // A pipe holds less than either side wants to say.
  let writer = Thread {
    try? input.fileHandleForWriting.write(contentsOf: Data(text.utf8))
    try? input.fileHandleForWriting.close()
  }
  writer.start()
  let answer = try output.fileHandleForReading.readToEnd() ?? Data()
  process.waitUntilExit()
  return String(decoding: answer, as: UTF8.self).split(
    separator: "\n", omittingEmptySubsequences: false
  ).dropLast().map { line in
    line.hasPrefix("-") ? nil : line.split(separator: " ").map(String.init)
  }
}

func hexadecimal(_ bytes: [UInt8]) -> String {
  bytes.map { ($0 < 16 ? "0" : "") + String($0, radix: 16) }.joined()
}

/// The bytes that `hexadecimal` has written so.
func bytes(_ hexadecimal: String) -> [UInt8] {
  var digits = hexadecimal.compactMap(\.hexDigitValue).makeIterator()
  var bytes: [UInt8] = []
  while let high = digits.next(), let low = digits.next() { bytes.append(UInt8(high << 4 | low)) }
  return bytes
}
