// A Linux guest under QEMU, by the scripts of the lab.
import Glibc
import Testing

struct Guest {
  let wire: Wire

  /// Where its kernel comes from.
  enum Boot: String {
    case given = ""
    /// iPXE, in the boot ROM of the NIC, fetches it (netboot.sh).
    case network
    /// UEFI firmware fetches iPXE, which fetches it.
    case uefi
  }

  /// - Parameters:
  ///   - device: more properties of virtio-net-pci, each with a comma before it.
  ///   - queues: queue pairs, and as many CPUs.
  ///   - ring: entries of each virtqueue.
  ///   - megabytes: of memory.
  ///   - memory: more properties of the memory, each with a comma before it.
  ///   - kernel: "6.1" or "newest"; 6.12 otherwise.
  ///   - iommu: the device is behind an IOMMU, and its driver unmaps each buffer at once.
  ///   - arguments: more arguments of QEMU.
  init(
    on wire: Wire, device: String = "", queues: Int = 1, ring: Int = 1024,
    megabytes: Int = 384, memory: String = "",
    kernel: String = "", boot: Boot = .given, iommu: Bool = false,
    arguments: String = ""
  ) throws {
    self.wire = wire
    try wire.shell(
      """
      export MEMORY=\(megabytes)M MEMORY_OPTIONS='\(memory)' QUEUES=\(queues) RING_SIZE=\(ring)
      export DEVICE_OPTIONS='\(device)'
      export IOMMU='\(iommu ? "intel-iommu,device-iotlb=on,intremap=off" : "")'
      GUEST_APPEND='\(iommu ? "intel_iommu=on iommu.passthrough=0 iommu.strict=1" : "")' \\
      GUEST_KERNEL='\(kernel)' GUEST_BOOT='\(boot.rawValue)' guest_start \(arguments)
      """)
  }

  /// Waits until it is up, after its start or a reboot, and gives it its address.
  func waitUntilUp(within seconds: Int = 400) throws {
    try wire.shell("guest_wait \(seconds); guest_address", within: Double(seconds) + 90)
  }

  /// Runs a shell command in the guest.
  ///
  /// - Returns: what it prints.
  @discardableResult
  func run(_ command: String, within seconds: Int = 180) throws -> String {
    try wire.shell("guest_run -t \(seconds) '\(command)'", within: Double(seconds) + 30)
  }

  /// Pings the far end from the guest.
  ///
  /// - Returns: how many answers came until one did not.
  func ping(count: Int, size: Int = 56) throws -> Int {
    try Wire.answers(in: run(Wire.pings("ping", "10.77.0.1", count: count, size: size)))
  }

  /// What QEMU's monitor answers.
  func ask(_ command: String) throws -> String {
    try wire.shell("guest_ask '\(command)'")
  }

  /// Whether the guest's driver and the device agreed on virtio feature `bit`.
  func hasFeature(_ bit: Int) throws -> Bool {
    let bits = Array(
      try run("cat /sys/class/net/eth0/device/features").filter { $0 == "0" || $0 == "1" })
    return bit < bits.count && bits[bit] == "1"
  }

  /// For a script: `serve` starts iperf3 at the far end for one test, and waits until it listens;
  /// `served` waits for its end, before which another one would not get the port.
  static let server = """
    serve() {
      ip netns exec "$NETNS_FAR" iperf3 --server --one-off "$@" >/dev/null 2>&1 &
      server=$!
      listens 5201
    }
    served() {
      local try
      for try in {1..300}; do
        kill -0 "$server" 2>/dev/null || break
        sleep 0.1
      done
      kill "$server" 2>/dev/null || true
      wait "$server" || true
    }
    # Waits until somebody does at a port of the far end.
    listens() {
      until [[ -n $(netns_far ss -Hltn "sport = :$1") ]]; do sleep 0.05; done
    }
    """

  /// 20 MB of TCP, from the guest and to it; bits per second as the receiver saw them.
  ///
  /// The server is at the far end.  So much, not so long: in a second a busy machine may do nothing.
  func iperf(toGuest: Bool, streams: Int = 1) throws -> Double {
    let direction = toGuest ? "--reverse" : ""
    let output = try wire.shell(
      """
      \(Guest.server)
      serve --bind $LAB_FAR_ADDRESS
      guest_run -t 180 \
        "iperf3 --client $LAB_FAR_ADDRESS --bytes 20M --parallel \(streams) --json \(direction)"
      served
      """, within: 300)
    guard let end = output.firstRange(of: "\"sum_received\""),
      let label = output[end.upperBound...].firstRange(of: "\"bits_per_second\":"),
      let value = Double(
        output[label.upperBound...].drop(while: \.isWhitespace).prefix { $0 != "," && $0 != "\n" })
    else { throw HarnessError("no result of iperf3: \(output)") }
    return value
  }

  /// A file of random bytes goes to the guest, and the guest's copy comes back.
  ///
  /// - Returns: the SHA-256 of what was sent, of what the guest got, and of what came back.
  func copyFile(megabytes: Int, within seconds: Int = 400) throws -> [String] {
    try wire.shell(
      """
      \(Guest.server)
      mkdir $GUEST_DIR/files
      head -c \(megabytes)M /dev/urandom >$GUEST_DIR/files/sent
      sha256sum $GUEST_DIR/files/sent
      ip netns exec "$NETNS_FAR" busybox httpd -f -p $LAB_FAR_ADDRESS:80 -h $GUEST_DIR/files &
      server=$!
      trap 'kill $server' EXIT
      listens 80
      guest_run -t \(seconds) "wget -q -O /tmp/file http://$LAB_FAR_ADDRESS/sent && sha256sum /tmp/file"
      guest_run 'httpd -p 80 -h /tmp'
      netns_far timeout \(seconds) busybox wget -q -O $GUEST_DIR/files/back http://$LAB_GUEST_ADDRESS/file
      sha256sum $GUEST_DIR/files/back
      """, within: Double(2 * seconds + 60)
    ).split(separator: "\n").map { String($0.prefix(64)) }
  }

  /// Why tests with a guest do not run.
  static let missing: Comment = "no QEMU and kernels: run Tests/System/lab/artifacts.sh"

  /// What artifacts.sh fetches.
  static var isFetched: Bool {
    let named = unsafe getenv("VHOST_USER_XDP_CACHE").map { unsafe String(cString: $0) }
    return exists((named ?? Wire.root + "/.lab") + "/uefi/ipxe.efi")
  }
}
