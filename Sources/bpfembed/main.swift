// bpfembed CLANG SOURCE.bpf.c OBJECT.o OUTPUT.swift NAME
//
// Compiles one BPF program and writes its object as a Swift array, so that the daemon carries the
// program inside itself.  Runs during the build, so it is small: no Foundation.
import Glibc

func fail(_ message: String) -> Never {
  unsafe write(2, "bpfembed: error: \(message)\n", message.utf8.count + 18)
  exit(1)
}

/// Where the kernel's `asm/types.h` is: `clang -target bpf` does not look into the multiarch
/// folder of the machine that it runs on.
func architectureIncludePath() -> String? {
  var name = utsname()
  guard unsafe uname(&name) == 0 else { return nil }
  let machine = unsafe withUnsafePointer(to: &name.machine) {
    unsafe $0.withMemoryRebound(to: CChar.self, capacity: 65) { unsafe String(cString: $0) }
  }
  for triple in ["\(machine)-linux-gnu", "\(machine)-linux-gnueabihf", "\(machine)-linux-musl"] {
    let folder = "/usr/include/\(triple)"
    if unsafe access("\(folder)/asm/types.h", R_OK) == 0 { return folder }
  }
  return nil
}

/// Runs a program and returns its exit status; nil if it could not be started or was killed.
func run(_ arguments: [String]) -> Int32? {
  let vector: [UnsafeMutablePointer<CChar>?] = unsafe arguments.map { unsafe strdup($0) } + [nil]
  defer { unsafe vector.forEach { unsafe free($0) } }
  var pid = pid_t()
  guard unsafe posix_spawn(&pid, arguments[0], nil, nil, vector, environ) == 0 else { return nil }
  var status: Int32 = 0
  while unsafe waitpid(pid, &status, 0) < 0 { if errno != EINTR { return nil } }
  return status & 0x7f == 0 ? (status >> 8) & 0xff : nil
}

func contents(of path: String) -> [UInt8]? {
  guard let file = unsafe fopen(path, "rb") else { return nil }
  defer { unsafe fclose(file) }
  var bytes: [UInt8] = []
  var chunk = [UInt8](repeating: 0, count: 65536)
  while case let count = unsafe fread(&chunk, 1, chunk.count, file), count > 0 {
    bytes += chunk[0..<count]
  }
  return bytes
}

let arguments = CommandLine.arguments
guard arguments.count == 6 else { fail("usage: bpfembed CLANG SOURCE OBJECT OUTPUT NAME") }
let (clang, source, object) = (arguments[1], arguments[2], arguments[3])
let (output, name) = (arguments[4], arguments[5])

guard unsafe access("/usr/include/bpf/bpf_helpers.h", R_OK) == 0 else {
  fail("/usr/include/bpf/bpf_helpers.h is missing: install libbpf-dev")
}
var command = [clang, "-target", "bpf", "-O2", "-g", "-Wall", "-Werror", "-mcpu=v3"]
// Paths of the build machine have no place in the debug information that the object carries.
let folder = source.split(separator: "/", omittingEmptySubsequences: false).dropLast()
  .joined(separator: "/")
command += ["-fno-stack-protector", "-fdebug-compilation-dir=.", "-ffile-prefix-map=\(folder)=."]
if let folder = architectureIncludePath() {
  command += ["-idirafter", folder]
} else if unsafe access("/usr/include/asm/types.h", R_OK) != 0 {
  fail("asm/types.h is in neither /usr/include nor its multiarch folder: install linux-libc-dev")
}
command += ["-c", source, "-o", object]
switch run(command) {
case 0: break
case nil: fail("cannot start \(clang)")
case let status?: fail("\(clang) failed on \(source) with status \(status), see above")
}

guard let bytes = contents(of: object) else { fail("cannot read \(object)") }
guard bytes.starts(with: [0x7f, 0x45, 0x4c, 0x46]) else { fail("\(object) is no ELF object") }
// A larger array literal costs the compiler seconds.
guard bytes.count < 65536 else { fail("\(object) has \(bytes.count) bytes, at most 65535 fit") }

var text = """
  // Made from \(name).bpf.c by the build.
  extension BPFObject {
    static let \(name): [UInt8] = [
  """
for (index, byte) in bytes.enumerated() {
  text += index % 20 == 0 ? "\n    \(byte)," : " \(byte),"
}
text += "\n  ]\n}\n"
guard let file = unsafe fopen(output, "wb") else { fail("cannot write \(output)") }
guard unsafe fwrite(text, 1, text.utf8.count, file) == text.utf8.count, unsafe fclose(file) == 0
else { fail("cannot write \(output)") }
