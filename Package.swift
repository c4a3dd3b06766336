// swift-tools-version: 6.2
import PackageDescription

/// Every Swift target of ours: Swift 6 mode, strict memory safety, warnings are errors.
let strict: [SwiftSetting] = [
  .strictMemorySafety(),
  .treatAllWarnings(as: .error),
  .enableUpcomingFeature("ExistentialAny"),
  .enableUpcomingFeature("InternalImportsByDefault"),
  .enableUpcomingFeature("MemberImportVisibility"),
]

/// `FUZZ=1 swift build -c release --scratch-path .build-fuzz --product chain-fuzz …`
let fuzzing = Context.environment["FUZZ"] == "1"
let fuzzSwift: [SwiftSetting] =
  fuzzing ? [.unsafeFlags(["-sanitize=fuzzer,address", "-parse-as-library"])] : []
let fuzzC: [CSetting] =
  fuzzing ? [.unsafeFlags(["-fsanitize=fuzzer-no-link,address"])] : []
let fuzzLink: [LinkerSetting] =
  fuzzing ? [.unsafeFlags(["-sanitize=fuzzer,address", "-use-ld=lld"])] : []

func module(
  _ name: String, _ dependencies: [Target.Dependency] = [], exclude: [String] = [],
  plugins: [Target.PluginUsage]? = nil
) -> Target {
  .target(
    name: name, dependencies: dependencies, exclude: exclude,
    swiftSettings: strict + fuzzSwift, plugins: plugins)
}

func tests(_ name: String, _ dependencies: [Target.Dependency]) -> Target {
  .testTarget(
    name: name + "Tests", dependencies: [.init(stringLiteral: name)] + dependencies,
    swiftSettings: strict)
}

func fuzzer(_ name: String, _ dependencies: [Target.Dependency]) -> Target {
  .executableTarget(
    name: name, dependencies: ["Fuzzing"] + dependencies, path: "Tests/Fuzz/\(name)",
    swiftSettings: strict + fuzzSwift, linkerSettings: fuzzLink)
}

// In dependency order: a target may only name targets above it.
var targets: [Target] = [
  .target(name: "CLinux", cSettings: fuzzC),
  .systemLibrary(name: "CBPF", pkgConfig: "libbpf", providers: [.apt(["libbpf-dev"])]),
  .systemLibrary(
    name: "CSeccomp", pkgConfig: "libseccomp", providers: [.apt(["libseccomp-dev"])]),
  .systemLibrary(name: "CNUMA", pkgConfig: "numa", providers: [.apt(["libnuma-dev"])]),

  module("SharedRing", ["CLinux"]),
  module("Linux", ["CLinux"]),
  module("Sandbox", ["CLinux", "CSeccomp", "Linux"]),
  module("Packet"),
  module("GuestMemory", ["CLinux", "SharedRing", "Linux"]),
  module("Virtqueue", ["CLinux", "GuestMemory", "SharedRing", "Linux"]),
  module("VhostUser", ["CLinux", "Virtqueue", "GuestMemory", "Linux"]),

  .executableTarget(name: "bpfembed", swiftSettings: strict),
  .plugin(name: "CompileBPF", capability: .buildTool(), dependencies: ["bpfembed"]),
  module(
    "AFXDP", ["CLinux", "CBPF", "CNUMA", "SharedRing", "Linux"], exclude: ["bpf"],
    plugins: ["CompileBPF"]),
  module("HostPort", ["AFXDP", "Packet", "SharedRing", "Linux"]),
  module(
    "VirtioNet",
    ["VhostUser", "Virtqueue", "HostPort", "Packet", "GuestMemory", "SharedRing", "Linux"]),
  .executableTarget(
    name: "vhost-user-xdp",
    dependencies: [
      "VirtioNet", "VhostUser", "HostPort", "AFXDP", "Packet", "GuestMemory", "Sandbox", "Linux",
      "CLinux",
      .product(name: "ArgumentParser", package: "swift-argument-parser"),
      .product(name: "Logging", package: "swift-log"),
    ],
    swiftSettings: strict),

  // The other side of everything, for tests: guest memory, driver, front-end, scripted port.
  .target(
    name: "GuestDriver",
    dependencies: [
      "VhostUser", "Virtqueue", "HostPort", "Packet", "GuestMemory", "SharedRing", "Linux",
      "CLinux",
    ],
    path: "Tests/GuestDriver", swiftSettings: strict),
  .target(name: "RuntimeCounters", path: "Tests/RuntimeCounters"),
  .target(name: "StoreSteps", path: "Tests/StoreSteps"),
  .target(name: "RawCalls", path: "Tests/RawCalls"),
  .executableTarget(
    name: "sandbox-probe", dependencies: ["Sandbox", "Linux", "RawCalls"],
    path: "Tests/sandbox-probe", swiftSettings: strict),
  .testTarget(name: "SandboxTests", dependencies: ["sandbox-probe"], swiftSettings: strict),
  tests("GuestDriver", ["Virtqueue", "HostPort", "GuestMemory", "Linux"]),
  tests("RuntimeCounters", ["SharedRing", "Linux"]),
  tests("SharedRing", []),
  tests("Linux", ["CLinux"]),
  tests("Packet", []),
  tests("GuestMemory", ["GuestDriver", "SharedRing", "Linux", "CLinux"]),
  tests(
    "Virtqueue",
    [
      "GuestDriver", "RuntimeCounters", "StoreSteps", "GuestMemory", "SharedRing", "Linux",
      "CLinux",
    ]),
  tests("VhostUser", ["GuestDriver", "Virtqueue", "GuestMemory", "Linux", "CLinux"]),
  tests("AFXDP", ["SharedRing", "Linux", "CLinux"]),
  tests("HostPort", ["AFXDP", "Packet", "SharedRing", "Linux", "CLinux", "CBPF"]),
  tests(
    "VirtioNet",
    [
      "GuestDriver", "RuntimeCounters", "CLinux", "VhostUser", "Virtqueue", "HostPort", "AFXDP",
      "Packet", "GuestMemory", "SharedRing", "Linux",
    ]),
  .testTarget(
    name: "DaemonTests",
    dependencies: [
      "vhost-user-xdp", "VirtioNet", "AFXDP", "HostPort", "Packet", "Linux", "CLinux",
      .product(name: "Logging", package: "swift-log"),
    ],
    swiftSettings: strict),
  // For instruction counts: Tests/Gates/path-cost.sh.
  .executableTarget(
    name: "path-cost",
    dependencies: ["GuestDriver", "VirtioNet", "HostPort", "Virtqueue", "GuestMemory", "Linux"],
    path: "Tests/Bench/path-cost", swiftSettings: strict),
  // A driver to measure back-ends with; `swift build -c release --product bench-driver`.
  .executableTarget(
    name: "bench-driver",
    dependencies: [
      "GuestDriver", "Virtqueue", "GuestMemory", "SharedRing", "Linux", "CLinux",
      .product(name: "ArgumentParser", package: "swift-argument-parser"),
    ],
    path: "Tests/Bench/driver", swiftSettings: strict),
  .testTarget(
    name: "BenchDriverTests",
    dependencies: [
      "bench-driver", "GuestDriver", "VirtioNet", "VhostUser", "HostPort", "Virtqueue",
      "GuestMemory", "SharedRing", "Linux", "CLinux",
      .product(name: "ArgumentParser", package: "swift-argument-parser"),
    ],
    swiftSettings: strict),
  // Black box: knows the release binary, and none of the modules.
  .testTarget(name: "SystemTests", swiftSettings: strict),
]

if fuzzing {
  targets += [
    .target(
      name: "Fuzzing", path: "Tests/Fuzz/Fuzzing", swiftSettings: strict + fuzzSwift),
    fuzzer("chain-fuzz", ["GuestDriver", "Virtqueue", "GuestMemory", "SharedRing", "Linux"]),
    fuzzer("offload-fuzz", ["Packet"]),
    fuzzer("merge-fuzz", ["VirtioNet", "HostPort", "Packet", "Virtqueue"]),
    fuzzer("message-fuzz", ["VhostUser", "Virtqueue", "GuestMemory", "Linux", "CLinux"]),
    fuzzer("inflight-fuzz", ["GuestDriver", "Virtqueue", "GuestMemory", "Linux"]),
    fuzzer(
      "configuration-fuzz",
      ["GuestDriver", "VirtioNet", "VhostUser", "HostPort", "Virtqueue", "Packet", "GuestMemory"]),
  ]
}

// `ONLY_TESTS="LinuxTests VirtioNetTests"`: these, and no program, for a build with a sanitizer that
// need not have everything.
let onlyTests = Context.environment["ONLY_TESTS"].map { $0.split(separator: " ").map(String.init) }
if let onlyTests {
  targets.removeAll { target in
    switch target.type {
    case .test: !onlyTests.contains(target.name)
    case .executable: target.name != "bpfembed" && !onlyTests.contains(target.name)
    default: false
    }
  }
}

let package = Package(
  name: "vhost-user-xdp",
  products: onlyTests != nil
    ? [] : [.executable(name: "vhost-user-xdp", targets: ["vhost-user-xdp"])],
  dependencies: [
    .package(url: "https://github.com/apple/swift-argument-parser", from: "1.8.2"),
    .package(url: "https://github.com/apple/swift-log", from: "1.16.2"),
  ],
  targets: targets,
  swiftLanguageModes: [.v6])
