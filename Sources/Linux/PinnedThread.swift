// Threads of the data path: named, optionally bound to one CPU, joined exactly once.
import CLinux
import Glibc

public struct PinnedThread: ~Copyable, Sendable {
  private let handle: pthread_t

  /// Starts a thread that runs `body`.
  /// - Parameters:
  ///   - name: shown by ps and top; cut to 15 bytes.
  ///   - cpu: the CPU to bind to, or nil to leave it to the scheduler.
  /// - Throws: the error of pthread_create, or of the binding when `cpu` may not be used.
  public init(
    name: String, cpu: Int? = nil, _ body: @escaping @Sendable () -> Void
  ) throws(Errno) {
    if let cpu {
      let allowed = PinnedThread.allowedCPUs
      guard allowed.contains(cpu) else { throw Errno(EINVAL) }
    }
    let start = unsafe Unmanaged.passRetained(Start(name: name, cpu: cpu, body: body))
    var handle = pthread_t()
    let code = unsafe pthread_create(
      &handle, nil,
      { argument in
        let start = unsafe Unmanaged<Start>.fromOpaque(argument!).takeRetainedValue()
        unsafe clinux_name_thread(start.name)
        if let cpu = start.cpu { clinux_pin_thread(CInt(cpu)) }
        start.body()
        return nil
      }, unsafe start.toOpaque())
    guard code == 0 else {
      unsafe start.release()
      throw Errno(code)
    }
    self.handle = handle
  }

  /// Waits until the thread has ended.
  public consuming func join() { pthread_join(handle, nil) }

  /// The CPUs that this process may use, in ascending order.
  public static var allowedCPUs: [Int] {
    var cpus = [CInt](repeating: 0, count: 1024)
    let count = unsafe clinux_allowed_cpus(&cpus, 1024)
    return cpus.prefix(max(0, Int(count))).map(Int.init)
  }

  /// The CPU that the calling thread runs on now.
  public static var currentCPU: CInt { clinux_current_cpu() }

  private final class Start: Sendable {
    let name: String
    let cpu: Int?
    let body: @Sendable () -> Void
    init(name: String, cpu: Int?, body: @escaping @Sendable () -> Void) {
      self.name = name
      self.cpu = cpu
      self.body = body
    }
  }
}
