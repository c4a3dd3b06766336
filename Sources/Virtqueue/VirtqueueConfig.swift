// What the control plane knows of one ring.  It crosses to the worker, is checked there once and
// becomes a running `Virtqueue`; the final indices come back when that queue is deactivated.
public import GuestMemory
public import Linux

public struct VirtqueueConfig: Sendable {
  /// Number of the ring on the device: pair * 2 is receive, pair * 2 + 1 is transmit.
  public var index: Int
  /// Entries: from 1 to 32768, of a split ring a power of two.
  public var size: Int
  /// Packed: the descriptor ring.
  public var descriptorTable: FrontEndAddress
  /// Packed: the driver's event suppression structure.
  public var availRing: FrontEndAddress
  /// Packed: the device's event suppression structure.
  public var usedRing: FrontEndAddress
  /// What the front-end said with SET_VRING_BASE.  A split ring goes on at its used->idx instead,
  /// which is the same after an orderly stop and right also when the process before us was killed.
  public var base: VringBase
  /// SET_VRING_ENABLE: a disabled ring discards what a driver transmits and receives nothing.
  public var isEnabled: Bool
  /// Written by the driver when there is something to do; nil: the ring must be polled.
  public var kick: EventDescriptor?
  /// Written by us to interrupt the driver; nil: the driver polls.
  public var call: EventDescriptor?
  /// Written by us when the ring stops for a fault.
  public var error: EventDescriptor?
  /// Negotiated features: offered and acknowledged.
  public var features: VirtioFeatures
  public var memory: GuestMemory
  /// Where the front-end keeps what is in flight, if it does.
  public var inflight: InflightArea?
  /// Behind a vIOMMU: addresses are I/O virtual ones, of the ring and in descriptors.
  public var translation: QueueTranslation?
  /// How writes are logged while the guest migrates; nil: not at all.
  public var log: RingLog?

  public init(
    index: Int, size: Int, descriptorTable: FrontEndAddress, availRing: FrontEndAddress,
    usedRing: FrontEndAddress, base: VringBase, isEnabled: Bool = true,
    kick: EventDescriptor? = nil, call: EventDescriptor? = nil, error: EventDescriptor? = nil,
    features: VirtioFeatures, memory: GuestMemory, inflight: InflightArea? = nil,
    translation: QueueTranslation? = nil
  ) {
    self.index = index
    self.size = size
    self.descriptorTable = descriptorTable
    self.availRing = availRing
    self.usedRing = usedRing
    self.base = base
    self.isEnabled = isEnabled
    self.kick = kick
    self.call = call
    self.error = error
    self.features = features
    self.memory = memory
    self.inflight = inflight
    self.translation = translation
  }
}

/// Where a ring stands, as SET_VRING_BASE and GET_VRING_BASE say it (vhost-user, "Vring base
/// offset").  Split: the index of the next available entry.  Packed: bits 0 to 14 and 15 are index
/// and wrap counter of the next available descriptor, bits 16 to 30 and 31 those of the next used.
public struct VringBase: Equatable, Sendable {
  public var rawValue: UInt32
  public init(rawValue: UInt32) { self.rawValue = rawValue }
  public init(split index: UInt16) { rawValue = UInt32(index) }
  public init(packed avail: QueuePosition, used: QueuePosition) {
    rawValue = UInt32(avail.value) | UInt32(used.value) << 16
  }

  /// Where a ring begins that nobody has used yet.
  public static func start(for features: VirtioFeatures) -> VringBase {
    VringBase(rawValue: features.contains(.ringPacked) ? 0x8000_8000 : 0)
  }
}

/// Why a ring cannot run, or stopped.  It costs this ring only.
public enum QueueFault: UInt8, Error, Equatable, Sendable, CustomStringConvertible {
  case badSize
  case misalignedRing
  case ringNotInMemory
  /// `avail.idx` claims more entries than the ring has.
  case availIndexTooFar
  /// `avail.ring` names a descriptor beyond the table.
  case headOutOfRange
  /// The descriptors of a packed ring are not what they are when it stands there.
  case impossibleBase
  /// The in-flight area's regions are too small for this queue.
  case noInflightRegion
  /// The in-flight region says what cannot be.
  case badInflightRegion
  /// Packed: SET_VRING_BASE names a descriptor beyond the ring.
  case baseOutOfRange
  /// Packed: every descriptor of the ring says that its chain goes on.
  case chainWithoutEnd

  public var description: String {
    switch self {
    case .badSize: "ring size is not 1 to 32768, of a split ring a power of two"
    case .misalignedRing:
      "a ring address is not aligned (descriptors 16, avail 2 or packed 4, used 4)"
    case .ringNotInMemory: "a ring address is not inside one memory region"
    case .availIndexTooFar: "avail.idx is further ahead than the ring is long"
    case .impossibleBase:
      "the packed ring cannot stand where SET_VRING_BASE says; after a crash of its back-end nobody "
        + "knows where it does: reload the guest's driver or reboot the guest (or use split rings, "
        + "packed=off, which go on by themselves)"
    case .noInflightRegion:
      "the in-flight area is for queues with fewer entries, or of another ring format"
    case .badInflightRegion:
      "the in-flight region contradicts the ring; reset the device to begin anew"
    case .headOutOfRange: "avail.ring holds a head beyond the descriptor table"
    case .baseOutOfRange: "the ring's base (SET_VRING_BASE) is beyond the descriptor ring"
    case .chainWithoutEnd: "a descriptor chain is longer than the ring"
    }
  }
}
