// What a confined process can and cannot do, in a process of its own.
import Foundation
import Glibc
import Testing

@Suite("A confined process")
struct SandboxTests {
  private static let program: String = {
    let bundle =
      CommandLine.arguments.first { $0.hasSuffix(".xctest") }
      ?? (try? FileManager.default.destinationOfSymbolicLink(atPath: "/proc/self/exe")) ?? ""
    return bundle.split(separator: "/", omittingEmptySubsequences: false).dropLast()
      .joined(separator: "/") + "/sandbox-probe"
  }()

  /// What the probe was allowed and refused.
  private func probe(_ mode: String) throws -> (allowed: Set<String>, refused: Set<String>) {
    let directory = "/tmp/sandbox-test.\(getpid()).\(mode)"
    let elsewhere = directory + "-elsewhere"
    try FileManager.default.createDirectory(
      atPath: directory, withIntermediateDirectories: true)
    defer {
      try? FileManager.default.removeItem(atPath: directory)
      try? FileManager.default.removeItem(atPath: elsewhere)
    }
    for file in [directory + "/socket", elsewhere] {
      #expect(FileManager.default.createFile(atPath: file, contents: nil))
    }
    let process = Process()
    process.executableURL = URL(fileURLWithPath: SandboxTests.program)
    process.arguments = [mode, directory]
    let pipe = Pipe()
    process.standardOutput = pipe
    try process.run()
    let text = String(decoding: pipe.fileHandleForReading.readDataToEndOfFile(), as: UTF8.self)
    process.waitUntilExit()
    try #require(process.terminationStatus == 0, "\(text)")
    var allowed: Set<String> = []
    var refused: Set<String> = []
    for line in text.split(separator: "\n") {
      let parts = line.split(separator: ":").map { $0.trimmingCharacters(in: .whitespaces) }
      if parts.last == "allowed" { allowed.insert(parts[0]) }
      if parts.last == "refused" { refused.insert(parts[0]) }
    }
    return (allowed, refused)
  }

  private static let serving: Set<String> = [
    "memory", "memory file", "event", "write", "thread", "stat of a descriptor",
    // Not for anything: a filter does not see names.
    "stat by name in the form for descriptors",
  ]
  private static let forbidden: Set<String> = [
    "open", "open, in a thread that was there", "execute", "fork", "trace", "bpf", "mount",
    "unshare",
    "signal another process", "io_uring", "Internet socket", "packet socket", "AF_XDP socket",
    "request to a device", "page faults", "request about page faults", "executable memory",
    "memory made executable",
    "set privileges", "remove elsewhere", "become another user", "enter a namespace", "bind",
    "set an option of a socket", "have a signal sent", "limit another process", "make a folder",
    "make a file", "change permissions", "stat by name", "statx by name",
  ]

  @Test("a server goes on serving, and removes its socket, and can do nothing else")
  func server() throws {
    let (allowed, refused) = try probe("listen")
    #expect(allowed == SandboxTests.serving.union(["remove the socket", "lstat by name"]))
    #expect(refused == SandboxTests.forbidden.union(["Unix socket"]))
  }

  @Test("a client may make Unix sockets, and removes nothing")
  func client() throws {
    let (allowed, refused) = try probe("connect")
    #expect(allowed == SandboxTests.serving.union(["Unix socket"]))
    #expect(refused == SandboxTests.forbidden.union(["remove the socket", "lstat by name"]))
  }

  @Test("page faults are to be had for postcopy migrations only")
  func postcopy() throws {
    let (_, refused) = try probe("postcopy")
    #expect(
      refused
        == SandboxTests.forbidden.union(["Unix socket", "remove the socket", "lstat by name"])
        .subtracting(["page faults", "request about page faults"]))
  }

  @Test("with an inherited connection there is nothing to make or remove")
  func inherited() throws {
    let (allowed, refused) = try probe("inherit")
    #expect(allowed == SandboxTests.serving)
    let others: Set = ["Unix socket", "remove the socket", "lstat by name"]
    #expect(refused == SandboxTests.forbidden.union(others))
  }
}
