import Testing

extension SystemTests {
  @Suite("what the tests themselves wait for")
  struct Harness {
    @Test("a line that is written in parts is waited for whole")
    func lineInParts() throws {
      let wire = try Wire()
      let writer = try wire.start(
        ["bash", "-c", "printf sums:; sleep 0.3; printf ' 1'; sleep 0.3; echo ' 2'; sleep 60"],
        in: .far, name: "writer")
      #expect(try writer.waitFor("sums:") == "sums: 1 2\n")
    }

    @Test("the last words of a process need no end of line")
    func lastWords() throws {
      let wire = try Wire()
      let writer = try wire.start(["printf", "sums: %s", "1"], in: .far, name: "writer")
      #expect(try writer.waitFor("sums:") == "sums: 1")
    }

    @Test("a prompt has no end of line")
    func prompt() throws {
      let wire = try Wire()
      let writer = try wire.start(
        ["bash", "-c", "printf 'prompt> '; sleep 60"], in: .far, name: "writer")
      #expect(try writer.waitFor("prompt> ", isPrompt: true) == "prompt> ")
      #expect(throws: HarnessError.self) { try writer.waitFor("prompt> ", within: 0.3) }
    }
  }
}
