// The rows of virtio (bits 24 to 41, virtio 1.3, 2.2 and 6), of virtio-net (0 to 23 and 50 to 63,
// 5.1.3) and of vhost-user (26 and 30).  FeatureTable.swift says how a row changes.

extension FeatureTable {
  private static let withMerging = "without --disable-offload=rxcsum or gro"
  private static let takenApart =
    "a merged packet, cut again, gives the packets that came, and none is overtaken in its flow"
  private static let noKickData = "a kick is an eventfd and carries no data"
  private static let otherCommand = "a command of the control queue that is not implemented"
  private static let withControlQueue = "with --control-queue"

  /// By bit.
  public static let virtio: [FeatureRow] = [
    FeatureRow(
      0, "CSUM",
      .offered(
        when: "without --disable-offload=csum",
        effect: "the checksum of a packet that the guest sends is filled in, here or by the NIC",
        test: "a checksum that the guest leaves open is filled in, whatever the packet")),
    FeatureRow(
      1, "GUEST_CSUM",
      .offered(
        when: "without --disable-offload=rxcsum",
        effect: "a packet whose checksum was verified says so (DATA_VALID); those of packets that "
          + "might be merged are",
        test: "what was verified says so, and nothing else does")),
    FeatureRow(
      2, "CTRL_GUEST_OFFLOADS",
      .offered(
        when: "with --control-queue and without --disable-offload=rxcsum",
        effect: "the driver switches merging off and on; QEMU answers its guest itself and tells "
          + "the daemon nothing",
        test: "offloads that the driver switches off end before it has its answer")),
    FeatureRow(
      3, "MTU",
      .offered(
        effect: "the front-end names the MTU by NET_SET_MTU (QEMU: `host_mtu=`); one that the "
          + "interface cannot carry is refused",
        test: "an MTU is taken up to what the host port carries, else the remedy is named")),
    FeatureRow(
      5, "MAC",
      .offered(
        when: withControlQueue,
        effect:
          "configuration space has the guest's address: that of --mac or --guest-mac, or a made-up one",
        test: "an address that the driver sets is shown in configuration space and received")),
    FeatureRow(6, "GSO", .leftOut(because: "of drivers before virtio 1.0; HOST_TSO4 says more")),
    FeatureRow(
      7, "GUEST_TSO4",
      .offered(
        when: withMerging,
        effect: "TCP segments of a flow that came together are delivered as one packet of up to "
          + "64 KiB",
        test: takenApart)),
    FeatureRow(
      8, "GUEST_TSO6",
      .offered(when: withMerging, effect: "the same over IPv6", test: takenApart)),
    FeatureRow(
      9, "GUEST_ECN",
      .offered(
        when: withMerging, effect: "also if the first segment has CWR",
        test: "CWR begins a merged packet where the driver takes that, and is never within one")),
    FeatureRow(
      10, "GUEST_UFO",
      .leftOut(because: "IP fragments of one datagram; deprecated, and drivers have left it")),
    FeatureRow(
      11, "HOST_TSO4",
      .offered(
        when: "without --disable-offload=csum or tso",
        effect: "the guest sends up to 64 KiB of TCP over IPv4 at once; cut while it is copied, or "
          + "by kernel or card",
        test: "a packet is cut into the segments that the specification wants")),
    FeatureRow(
      12, "HOST_TSO6",
      .offered(
        when: "without --disable-offload=csum or tso",
        effect: "the same over IPv6, with extension headers",
        test: "a packet is cut into the segments that the specification wants")),
    FeatureRow(
      13, "HOST_ECN",
      .offered(
        when: "without --disable-offload=csum or tso",
        effect: "CWR stays in the first segment only",
        test: "a packet is cut into the segments that the specification wants")),
    FeatureRow(
      14, "HOST_UFO",
      .leftOut(because: "IP fragments of one datagram; deprecated, and drivers have left it")),
    FeatureRow(
      15, "MRG_RXBUF",
      .offered(
        effect: "a packet may lie over several receive buffers; `num_buffers` is right",
        test: "a packet lies over as many mergeable buffers as it needs, and num_buffers says so")),
    FeatureRow(
      16, "STATUS",
      .offered(
        when: withControlQueue,
        effect:
          "the link is up while the interface has a carrier; a change is told to the front-end",
        test: "the link's state is shown, and its change told over the channel")),
    FeatureRow(
      17, "CTRL_VQ",
      .offered(
        when: withControlQueue,
        effect:
          "the ring behind the last queue pair is served; else the front-end answers its guest itself",
        test: "commands that are none are answered with an error and change nothing")),
    FeatureRow(
      18, "CTRL_RX",
      .offered(
        when: withControlQueue,
        effect:
          "promiscuous and all-multicast modes and the address table decide what the guest receives",
        test: "receive modes, address table and VLAN table decide which packets arrive")),
    FeatureRow(
      19, "CTRL_VLAN",
      .offered(
        when: withControlQueue,
        effect: "frames with a tag that is not in the driver's table are dropped",
        test: "receive modes, address table and VLAN table decide which packets arrive")),
    FeatureRow(
      20, "CTRL_RX_EXTRA",
      .offered(
        when: withControlQueue,
        effect: "all-unicast mode, and none of unicast, multicast or broadcast",
        test: "no unicast: nothing is sent to the guest by its address")),
    FeatureRow(
      21, "GUEST_ANNOUNCE",
      .offered(
        effect: "QEMU tells the guest to announce itself after migration; with --control-queue the "
          + "daemon does",
        test: "a guest that has moved here is asked to announce itself until it acknowledges")),
    FeatureRow(
      22, "MQ",
      .offered(
        when: "with --queues above 1",
        effect: "the pairs that the guest enables are served, and fed by all queues",
        test: "the port queue of a pair that the guest does not use feeds one that it does")),
    FeatureRow(
      23, "CTRL_MAC_ADDR",
      .offered(
        when: withControlQueue,
        effect: "the driver sets the guest's address; with --mac only to one of those",
        test: "where packets are steered by address, the driver may take none but those")),
    FeatureRow(
      24, "NOTIFY_ON_EMPTY",
      .offered(
        effect: "a driver whose ring has run empty is called even if it suppressed calls",
        test: "with NOTIFY_ON_EMPTY a driver that has offered nothing more is called whatever it "
          + "said")),
    FeatureRow(
      26, "LOG_ALL",
      .offered(
        effect: "what is written into the guest is logged while it migrates; rings stop for a "
          + "moment when that is switched on and off",
        test: "nothing is lost, repeated or reordered while logging is switched on and off")),
    FeatureRow(
      27, "ANY_LAYOUT",
      .offered(
        effect: "see [no-linear-tx](#no-linear-tx)",
        test: "every descriptor layout delivers the same bytes, direct and indirect")),
    FeatureRow(
      28, "INDIRECT_DESC",
      .offered(
        effect: "also after direct descriptors, and longer than the ring",
        test: "an indirect table may be longer than the ring")),
    FeatureRow(
      29, "EVENT_IDX",
      .offered(
        effect: "kicks and calls are suppressed by index",
        test: "with EVENT_IDX a call is made exactly when the used index passes the driver's "
          + "event")),
    FeatureRow(
      30, "PROTOCOL_FEATURES",
      .offered(
        effect: "the protocol features below are negotiated, and rings begin disabled",
        test: "with PROTOCOL_FEATURES a ring is disabled until it is enabled, whatever its kick "
          + "does")),
    FeatureRow(
      32, "VERSION_1",
      .offered(
        effect: "without it: legacy, 10-byte header (12 with MRG_RXBUF), little-endian only",
        test: "a guest that boots from legacy firmware into a modern driver starts afresh")),
    FeatureRow(
      33, "ACCESS_PLATFORM",
      .offered(
        effect: "behind a vIOMMU: addresses are looked up in the front-end's translations (IOTLB)",
        test: "after an invalidation is acknowledged, nothing is written where it was before")),
    FeatureRow(
      34, "RING_PACKED",
      .offered(
        effect: "packed rings of any size from 1 to 32768, with all that split rings have",
        test: "a random packed chain gives what the specification says")),
    FeatureRow(
      35, "IN_ORDER",
      .offered(
        effect: "chains go back in the order they came, in any case; each gets its used element",
        test: "chains go back in the order they came, with length 0, across the wrap of the "
          + "index")),
    FeatureRow(
      36, "ORDER_PLATFORM",
      .offered(
        effect: "nothing more to do: the rings are served by a CPU, and a driver that orders its "
          + "accesses as for a device orders them for a CPU too",
        test: "two threads that both sleep whenever they may never miss each other")),
    FeatureRow(37, "SR_IOV", .leftOut(because: "of the PCI device, which the front-end makes")),
    FeatureRow(38, "NOTIFICATION_DATA", .leftOut(because: noKickData)),
    FeatureRow(39, "NOTIF_CONFIG_DATA", .leftOut(because: noKickData)),
    FeatureRow(
      40, "RING_RESET",
      .leftOut(because: "QEMU tells a vhost-user back-end of no queue that a guest resets")),
    FeatureRow(41, "ADMIN_VQ", .leftOut(because: "of the PCI device, which the front-end makes")),
    FeatureRow(50, "DEVICE_STATS", .leftOut(because: otherCommand)),
    FeatureRow(51, "HASH_TUNNEL", .leftOut(because: "no hash is computed")),
    FeatureRow(52, "VQ_NOTF_COAL", .leftOut(because: otherCommand)),
    FeatureRow(53, "NOTF_COAL", .leftOut(because: otherCommand)),
    FeatureRow(
      54, "GUEST_USO4",
      .offered(
        when: withMerging, effect: "the same for UDP datagrams of one size", test: takenApart)),
    FeatureRow(
      55, "GUEST_USO6",
      .offered(when: withMerging, effect: "the same over IPv6", test: takenApart)),
    FeatureRow(
      56, "HOST_USO",
      .offered(
        when: "without --disable-offload=csum or uso",
        effect: "the same for UDP: datagrams of one size",
        test: "a packet is cut into the segments that the specification wants")),
    FeatureRow(
      57, "HASH_REPORT",
      .leftOut(because: "the NIC's hash does not come with a frame of AF_XDP in copy mode")),
    FeatureRow(59, "GUEST_HDRLEN", .leftOut(because: "no header length is relied on")),
    FeatureRow(
      60, "RSS",
      .leftOut(because: "the NIC spreads flows over its queues; QEMU keeps the guest's table")),
    FeatureRow(
      61, "RSC_EXT", .leftOut(because: "for drivers that want to know how many were merged")),
    FeatureRow(62, "STANDBY", .leftOut(because: "of a pair of devices, which the front-end makes")),
    FeatureRow(
      63, "SPEED_DUPLEX",
      .offered(
        when: withControlQueue,
        effect:
          "speed and duplex mode of the interface when the daemon started, if its driver knows them",
        test: "the link's state is shown, and its change told over the channel")),
  ]
}
