/* Which frames of the interface go to the guest.
 *
 * Dedicated: all of them.  Otherwise the unicast frames for an address in `guest_macs` and every
 * multicast and broadcast frame; the kernel keeps the rest, so the host keeps its NIC.  XDP cannot
 * give one frame to both sides: multicast that the guest gets is lost to the host.
 *
 * A frame of a queue that has no socket goes to the kernel.
 *
 * No helper here is reserved to GPL programs; the license string only says what this file is. */
#include <linux/bpf.h>
#include <linux/if_ether.h>
#include <bpf/bpf_helpers.h>

/* Set before loading, read-only afterwards: the verifier removes the branch that is not taken. */
const volatile __u32 dedicated = 0;

/* NIC queue -> AF_XDP socket; resized to the number of queues before loading. */
struct {
  __uint(type, BPF_MAP_TYPE_XSKMAP);
  __uint(max_entries, 1);
  __type(key, __u32);
  __type(value, __u32);
} sockets SEC(".maps");

struct mac {
  __u8 bytes[ETH_ALEN];
};

/* Addresses of the guest. */
struct {
  __uint(type, BPF_MAP_TYPE_HASH);
  __uint(max_entries, 256);
  __type(key, struct mac);
  __type(value, __u8);
} guest_macs SEC(".maps");

static __always_inline int is_for_guest(struct xdp_md *context) {
  const struct ethhdr *header = (void *)(long)context->data;
  if ((void *)(header + 1) > (void *)(long)context->data_end) return 0;
  if (header->h_dest[0] & 1) return 1;
  struct mac destination;
  __builtin_memcpy(destination.bytes, header->h_dest, ETH_ALEN);
  return bpf_map_lookup_elem(&guest_macs, &destination) != 0;
}

SEC("xdp")
int vhost_user_xdp(struct xdp_md *context) {
  if (!dedicated && !is_for_guest(context)) return XDP_PASS;
  return bpf_redirect_map(&sockets, context->rx_queue_index, XDP_PASS);
}

char _license[] SEC("license") = "Dual MIT/GPL";
