import Glibc
import Linux

@main struct Daemon {
  static func main() {
    switch Command(Array(CommandLine.arguments.dropFirst())) {
    case .print(let text):
      ProcessSettings.write(text, to: STDOUT_FILENO)
    case .refuse(let line):
      StandardErrorLog.write("error: \(line)")
      exit(ExitStatus.usage)
    case .run:
      break
    }
  }
}
