// What the operator asks for, and what an interface and queue really got.

/// Which XDP hook to attach to.
public enum XDPModeChoice: String, CaseIterable, Sendable {
  /// The driver's hook, else the generic one.
  case auto
  case native
  case skb
}

/// The XDP hook that a program is attached to.
public enum XDPMode: String, Sendable {
  /// In the driver, before an skb exists.
  case native
  /// Generic: on the skb, any driver.
  case skb
}

/// Whether the NIC shall work on the UMEM itself.
public enum CopyModeChoice: String, CaseIterable, Sendable {
  /// Zero-copy, else copy.
  case auto
  case zeroCopy = "zero-copy"
  case copy
}

/// A network interface of this network namespace.
public struct XDPInterface: Equatable, Sendable {
  public let name: String
  public let index: UInt32

  public init(name: String, index: UInt32) {
    self.name = name
    self.index = index
  }
}

/// Which frames the program takes from the interface.
public enum Steering: Equatable, Sendable {
  /// All: the interface belongs to the guest.
  case dedicated
  /// Unicast to these addresses (6 bytes each), and every multicast and broadcast frame.
  case addresses([[UInt8]])
}

/// Whether the kernel does a device's work (NAPI) when the socket's owner looks, in place of the
/// device's interrupts.
public enum BusyPolling: Equatable, Sendable {
  case off
  case on
  case refused(String)
}
