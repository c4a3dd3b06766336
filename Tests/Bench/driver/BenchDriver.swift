// A vhost-user front-end and the driver of its device in one process, to measure a back-end with:
// this project's daemon, or any other.
import ArgumentParser
import CLinux
import Glibc
import GuestDriver
import Linux

@main
struct BenchDriver: ParsableCommand {
  static let configuration = CommandConfiguration(
    commandName: "bench-driver",
    abstract: "Measures a vhost-user network back-end from the guest's side.",
    subcommands: [
      LatencyCommand.self, FloodCommand.self, TapCommand.self, ChurnCommand.self,
    ])
}

/// What every command takes: the back-end, and the rings that it is given.
struct BackEndOptions: ParsableArguments {
  @Option(help: ArgumentHelp("Unix socket that the back-end listens at.", valueName: "path"))
  var socket: String

  @Flag(help: "Packed rings instead of split ones.")
  var packed = false

  @Flag(help: "Kicks and calls by flag: EVENT_IDX is not negotiated.")
  var noEventIdx = false

  @Option(help: "Descriptors of a ring: a power of two, 2 to 32768.")
  var queueSize = 256

  @Option(help: "The CPU to run on; any, unless given.")
  var cpu: Int?

  @Option(help: "Seconds to wait for the back-end, and for the first frame.")
  var connectTimeout = 10.0

  func validate() throws {
    guard (2...32768).contains(queueSize), queueSize & (queueSize - 1) == 0 else {
      throw ValidationError("--queue-size takes a power of two, 2 to 32768")
    }
    guard connectTimeout >= 0, connectTimeout <= 3600 else {
      throw ValidationError("--connect-timeout takes up to 3600 seconds")
    }
    let allowed = PinnedThread.allowedCPUs
    guard cpu.map(allowed.contains) ?? true else {
      throw ValidationError(
        "--cpu names one that may not be used here: take one of "
          + allowed.map(String.init).joined(separator: ", "))
    }
  }

  /// Binds the calling thread, the only one, to its CPU.
  func pin() throws {
    guard let cpu, clinux_pin_thread(CInt(cpu)) != 0 else { return }
    throw BenchError("cannot run on CPU \(cpu): take another --cpu")
  }
}

/// What the commands take that measure with frames of their own.
struct DeviceOptions: ParsableArguments {
  @OptionGroup var backEnd: BackEndOptions

  @Option(help: "Bytes of a frame, without FCS: 60 to 9014.")
  var size = 64

  @Option(help: "How long to measure.")
  var seconds = 5.0

  @Option(help: "Guest memory is this many regions, 1 to 509, with the buffers all over them.")
  var regions = 1

  @Option(help: "Queue pairs.")
  var queues = 1

  func validate() throws {
    guard (60...9014).contains(size) else { throw ValidationError("--size takes 60 to 9014 bytes") }
    guard seconds > 0, seconds <= 3600 else { throw ValidationError("--seconds takes up to 3600") }
    guard (1...509).contains(regions) else {
      throw ValidationError("--regions takes 1 to 509: more no back-end has slots for")
    }
    guard (1...128).contains(queues) else { throw ValidationError("--queues takes 1 to 128") }
  }

  var transmitRoom: Int { FrameTemplate.header + size }
  /// What drivers usually give, or what a large frame needs.
  var receiveRoom: Int { max(2048, (transmitRoom + 63) / 64 * 64) }
}

/// Nanoseconds since some time or other.
@inline(__always)
func now() -> UInt64 {
  var time = timespec()
  unsafe clock_gettime(CLOCK_MONOTONIC, &time)
  return UInt64(time.tv_sec) &* 1_000_000_000 &+ UInt64(time.tv_nsec)
}
