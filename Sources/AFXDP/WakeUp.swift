// Telling the kernel to look at a ring.  In copy mode the system call is what does the work: it
// sends up to a budget of packets, and it must be repeated while it says EAGAIN.
import Glibc

/// What a wake-up for transmission gave.
public enum TransmitWakeUp: Equatable, Sendable {
  /// Everything that was queued is on its way.
  case done
  /// The budget was used up or the device is full: call again.
  case again
  /// The device refused one packet (no carrier, larger than it takes); that one is lost and
  /// completed, those behind it wait: call again.
  case refused
  /// The interface is down; what is queued waits until it is up again.
  case linkDown
  /// The interface has been removed; nothing will ever leave.
  case gone
  case failed(CInt)
}

extension XDPSocket {
  /// Wakes the kernel for the TX ring of `descriptor`.
  public static func wakeTransmit(_ descriptor: CInt) -> TransmitWakeUp {
    while true {
      if sendto(descriptor, nil, 0, CInt(MSG_DONTWAIT), nil, 0) >= 0 {
        return .done
      }
      switch errno {
      case EINTR: continue
      case EAGAIN, ENOBUFS, ENOMEM: return .again
      case EBUSY: return .refused
      case ENETDOWN: return .linkDown
      case ENXIO: return .gone
      case let code: return .failed(code)
      }
    }
  }

  /// Wakes the kernel for the fill ring of `descriptor`, which only zero-copy drivers ask for; or, if
  /// the kernel polls for this socket, has it take what the device has received.
  public static func wakeReceive(_ descriptor: CInt) {
    _ = recvfrom(descriptor, nil, 0, CInt(MSG_DONTWAIT), nil, nil)
  }
}
