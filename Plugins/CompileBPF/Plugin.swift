// Compiles every bpf/*.bpf.c of a target with the toolchain's own clang and embeds the objects.
//
// The `.o` is not declared as an output: SwiftPM would copy it as a resource next to the binary.
import Foundation
import PackagePlugin

@main struct CompileBPF: BuildToolPlugin {
  func createBuildCommands(context: PluginContext, target: any Target) async throws -> [Command] {
    let clang = try context.tool(named: "clang").url
    let embed = try context.tool(named: "bpfembed").url
    let folder = target.directoryURL.appending(path: "bpf")
    let files = try FileManager.default
      .contentsOfDirectory(at: folder, includingPropertiesForKeys: nil)
      .sorted { $0.path < $1.path }
    let headers = files.filter { $0.pathExtension == "h" }
    return files.filter { $0.lastPathComponent.hasSuffix(".bpf.c") }.map { source in
      let stem = source.lastPathComponent.replacingOccurrences(of: ".bpf.c", with: "")
      let object = context.pluginWorkDirectoryURL.appending(path: "\(stem).bpf.o")
      let swift = context.pluginWorkDirectoryURL.appending(path: "BPFObject+\(stem).swift")
      return .buildCommand(
        displayName: "Compiling \(source.lastPathComponent) for the kernel",
        executable: embed,
        arguments: [clang.path, source.path, object.path, swift.path, stem],
        inputFiles: [source] + headers, outputFiles: [swift])
    }
  }
}
