// The rows of the vhost-user protocol (vhost-user specification, "Protocol features").
// FeatureTable.swift says how a row changes.

extension FeatureTable {
  /// By bit.
  public static let vhostUser: [FeatureRow] = [
    FeatureRow(
      0, "MQ",
      .offered(
        effect: "GET_QUEUE_NUM answers queue pairs",
        test: "queue pairs are counted, and memory slots are as many as the table takes")),
    FeatureRow(
      1, "LOG_SHMFD",
      .offered(
        effect: "the log of written pages is memory that the front-end shares; without it QEMU "
          + "does not migrate the guest",
        test: "logging is switched on and off as QEMU does it, and rings go on where they were")),
    FeatureRow(
      2, "RARP",
      .offered(
        effect: "SEND_RARP sends an announcement of the guest out of the interface",
        test: "a migrated guest is announced by a reverse ARP broadcast")),
    FeatureRow(
      3, "REPLY_ACK",
      .offered(
        effect: "acknowledged when the device is quiet or running again, not before",
        test: "a reply is sent when it is asked for and REPLY_ACK was negotiated")),
    FeatureRow(
      4, "MTU",
      .offered(
        effect: "NET_SET_MTU is refused above what the interface and its frames carry",
        test: "an MTU is taken up to what the host port carries, else the remedy is named")),
    FeatureRow(
      5, "BACKEND_REQ",
      .offered(
        effect: "the channel is held; IOTLB misses go out over it, and changes of configuration "
          + "space",
        test: "SET_BACKEND_REQ_FD is held until it is replaced or the session ends")),
    FeatureRow(
      6, "CROSS_ENDIAN",
      .leftOut(because: "for legacy guests of the other byte order; rings are little-endian")),
    FeatureRow(7, "CRYPTO_SESSION", .leftOut(because: "for crypto devices")),
    FeatureRow(
      8, "PAGEFAULT",
      .offered(
        when: "with --postcopy, where the kernel has userfaultfd for shared memory",
        effect: "postcopy migration: who touches a page that has not come yet waits for it",
        test: "regions are answered with our addresses, and rings wait for the acknowledgement")),
    FeatureRow(
      9, "CONFIG",
      .offered(
        when: "with --control-queue",
        effect: "configuration space is read and its changes are told; QEMU refuses it for a net "
          + "device, with a warning in each guest's log",
        test: "GET_CONFIG answers with offset, size and flags of the request, and the bytes")),
    FeatureRow(
      10, "BACKEND_SEND_FD",
      .leftOut(because: "no request of a net back-end carries a descriptor")),
    FeatureRow(
      11, "HOST_NOTIFIER",
      .leftOut(because: "for doorbells of hardware that a guest may write to itself")),
    FeatureRow(
      12, "INFLIGHT_SHMFD",
      .offered(
        effect: "for front-ends that keep an in-flight area; QEMU does not for net",
        test: "a packed ring that is cut short at any store is taken over without loss, by its "
          + "region")),
    FeatureRow(
      13, "RESET_DEVICE",
      .offered(
        effect: "back to the state before the driver came; memory and wiring stay",
        test: "RESET_DEVICE stops and forgets the rings; GET_VRING_BASE still answers")),
    FeatureRow(
      14, "INBAND_NOTIFICATIONS",
      .offered(
        effect: "VRING_KICK, VRING_CALL and VRING_ERR where the front-end gives no eventfd",
        test: "calls and errors are requests over the channel, each after the reply to the one "
          + "before")),
    FeatureRow(
      15, "CONFIGURE_MEM_SLOTS",
      .offered(
        effect: "509 slots; a region comes and goes without disturbing the others",
        test: "a region is added and removed under traffic, and what stayed is not mapped again")),
    FeatureRow(
      16, "STATUS",
      .offered(
        effect: "the driver's status is kept; 0 resets the device",
        test: "a device status is kept, and zero resets the device but for memory and wiring")),
    FeatureRow(17, "XEN_MMAP", .leftOut(because: "for guests of Xen, whose memory is granted")),
    FeatureRow(18, "SHARED_OBJECT", .leftOut(because: "for buffers that devices of a guest share")),
    FeatureRow(
      19, "DEVICE_STATE",
      .offered(
        effect: "what the driver configured goes with the guest; QEMU does not ask for it",
        test: "a state goes to another host and is taken over there")),
    FeatureRow(
      20, "GET_VRING_BASE_INFLIGHT",
      .offered(
        effect: "with INFLIGHT_SHMFD: nothing is in flight here when a ring stops; what another "
          + "back-end left in the area is completed with length 0",
        test: "heads that another back-end left in flight go back once, in its order")),
    FeatureRow(
      21, "GPA_ADDRESSES",
      .offered(
        effect: "rings are addressed by guest addresses; the user address of a region is ignored",
        test: "with GPA_ADDRESSES rings are found by guest addresses")),
    FeatureRow(22, "SHMEM", .leftOut(because: "for devices that share memory with the guest")),
  ]
}
