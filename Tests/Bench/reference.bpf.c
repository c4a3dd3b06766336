// For testpmd's net_af_xdp on an interface without native XDP: the program that it brings along is
// attached in native mode only.  This one does the same, every packet goes to the socket.
#include <linux/bpf.h>

#include <bpf/bpf_helpers.h>

struct {
  __uint(type, BPF_MAP_TYPE_XSKMAP);
  __uint(max_entries, 64);
  __type(key, __u32);
  __type(value, __u32);
} xsks_map SEC(".maps");

SEC("xdp")
int to_socket(struct xdp_md *packet) {
  return bpf_redirect_map(&xsks_map, packet->rx_queue_index, XDP_PASS);
}

char terms[] SEC("license") = "Dual BSD/GPL";
