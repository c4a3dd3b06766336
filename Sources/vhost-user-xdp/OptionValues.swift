// Values of options: each reads its own text, and knows the forms it takes.
public import AFXDP
public import ArgumentParser
public import HostPort
public import Logging
import Packet
public import VirtioNet

/// What --interface names.
enum PortName: Equatable, CustomStringConvertible {
  case interface(String)
  case null
  case reflect
  /// Frames of so many bytes, with Ethernet header and without FCS.
  case generate(size: Int)

  init(option argument: String) throws {
    if argument == "null:" {
      self = .null
    } else if argument == "reflect:" {
      self = .reflect
    } else if argument.hasPrefix("generate:") {
      guard let size = Int(argument.dropFirst("generate:".count)),
        GeneratePort.sizes.contains(size)
      else {
        throw ValidationError(
          "a frame has \(GeneratePort.sizes.lowerBound) to "
            + "\(GeneratePort.sizes.upperBound) bytes, as in generate:64")
      }
      self = .generate(size: size)
    } else {
      // The kernel's own rule for names (dev_valid_name).
      guard (1...15).contains(argument.utf8.count), argument != ".", argument != "..",
        !argument.contains(where: { $0 == "/" || $0 == ":" || $0.isWhitespace })
      else {
        throw ValidationError(
          "give the name of a network interface (ip link lists them), null:, reflect: or "
            + "generate:SIZE")
      }
      self = .interface(argument)
    }
  }

  var description: String {
    switch self {
    case .interface(let name): name
    case .null: "null:"
    case .reflect: "reflect:"
    case .generate(let size): "generate:\(size)"
    }
  }
}

/// What --disable-offload names: csum,tso.
struct OffloadList: Equatable, CustomStringConvertible {
  var offloads: Set<Offload>

  init(offloads: Set<Offload>) { self.offloads = offloads }

  init(option argument: String) throws {
    offloads = []
    for name in argument.split(separator: ",", omittingEmptySubsequences: false) {
      guard let offload = Offload(rawValue: String(name)) else {
        let names = Offload.allCases.map(\.rawValue).joined(separator: ", ")
        throw ValidationError("no offload is called '\(name)': give a list of \(names)")
      }
      offloads.insert(offload)
    }
  }

  var description: String { offloads.map(\.rawValue).sorted().joined(separator: ",") }
}

/// A set of CPUs in the form of taskset and cpusets: 2,4-7.
struct CPUList: Equatable, CustomStringConvertible {
  /// Ascending, each once.
  var cpus: [Int]

  /// CPU_SETSIZE: more do not fit the masks that threads are bound with.
  static let limit = 1024

  init(cpus: [Int]) { self.cpus = cpus }

  init(option argument: String) throws {
    var found: Set<Int> = []
    for part in argument.split(separator: ",", omittingEmptySubsequences: false) {
      let ends = part.split(separator: "-", omittingEmptySubsequences: false).map {
        $0.allSatisfy(\.isNumber) ? Int($0) : nil
      }
      guard ends.count <= 2, let first = ends[0], let last = ends[ends.count - 1],
        first <= last, last < CPUList.limit
      else {
        throw ValidationError(
          "give CPU numbers below \(CPUList.limit) and ranges of them, as in 2,4-7")
      }
      found.formUnion(first...last)
    }
    cpus = found.sorted()
  }

  var description: String { cpus.map(String.init).joined(separator: ",") }
}

extension MACAddress {
  /// A guest's address: unicast, and not all zeros.
  init(option argument: String) throws {
    guard let address = MACAddress(argument), !address.isMulticast,
      !address.bytes.allSatisfy({ $0 == 0 })
    else {
      throw ValidationError("give a guest's unicast address, as in 52:54:00:12:34:56")
    }
    self = address
  }
}

extension XDPModeChoice: ExpressibleByArgument {}
extension CopyModeChoice: ExpressibleByArgument {}
extension BulkLaneChoice: ExpressibleByArgument {}
extension PollMode: ExpressibleByArgument {}
extension Logger.Level: @retroactive ExpressibleByArgument {}
