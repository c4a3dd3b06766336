// A back-end of ours in this process: the device with its workers, and the control thread.
import Glibc
import HostPort
import Linux
import VhostUser
import VirtioNet

final class BackEndThread {
  let path: String
  private var thread: PinnedThread?

  /// Serves one front-end over a port that reflects, until it hangs up.
  init(_ name: String, pairs: Int = 1) throws {
    let path = "/tmp/bench-driver-test.\(getpid()).\(name)"
    self.path = path
    let listening = try Reply<Bool>()
    thread = try PinnedThread(name: "back-end") {
      guard let listener = try? UnixSocketListener(path: path) else {
        listening.fulfil(false)
        return
      }
      listening.fulfil(true)
      for _ in 0..<60_000 {
        if let socket = try? listener.accept() {
          try? BackEndThread.serve(socket, pairs)
          return
        }
        usleep(1000)
      }
    }
    guard listening.wait() else { throw Errno(EADDRINUSE) }
  }

  private static func serve(_ socket: consuming UnixSocket, _ pairs: Int) throws {
    let port = ReflectPort(queueCount: pairs)
    let device = try NetDevice(port: port, queuePairs: pairs, cpus: []) { _ in }
    defer { device.stop() }
    let raw = socket.raw
    let session = BackEnd(device: device, socket: socket, log: { _, _ in })
    let epoll = try EpollSet()
    try epoll.add(raw, .readable, tag: 0)
    while true {
      epoll.wait(milliseconds: -1) { _, _ in }
      if try session.handleReadable() == .closed { return }
    }
  }

  /// The front-end must have gone.
  func join() { if let thread = thread.take() { thread.join() } }
}
