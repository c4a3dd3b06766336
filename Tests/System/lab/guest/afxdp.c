// An AF_XDP sender and receiver for the guest: frames of every size, with a pattern that depends on
// the size and the place. No library: system calls and one hand-written XDP program.
//
//   afxdp send IFNAME [OPTION...]      sends one frame of each size from 60 to 1514
//   afxdp receive IFNAME [OPTION...]   prints "ready", then compares what arrives until it has seen
//                                      each size, or for 50 s
//
//   queue=N        0 unless it is given
//   zero-copy      binds with XDP_ZEROCOPY: fails where the driver does not do it; else copy mode
//   skb            the receiver's program runs in generic mode; else in the driver's
//
// The sender prints "sent N, memory FROM-TO": the physical range of its frames, in MiB. The receiver
// prints "equal N, different N". Both exit with 0 only when all sizes were sent or equal.
//
// In copy mode the frames are packed one behind the other, at odd addresses and over the ends of
// pages (unaligned chunks): the driver then gets packets with no linear head, in one or two fragments.
#include <arpa/inet.h>
#include <errno.h>
#include <fcntl.h>
#include <linux/bpf.h>
#include <linux/if_link.h>
#include <linux/if_xdp.h>
#include <net/if.h>
#include <poll.h>
#include <stddef.h>
#include <stdint.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/mman.h>
#include <sys/socket.h>
#include <sys/syscall.h>
#include <time.h>
#include <unistd.h>

enum { smallest = 60, largest = 1514, sizes = largest - smallest + 1 };
enum { chunk = 2048, frames = 2048, entries = 2048, header = 14 };
// Seconds: less than a caller waits, and much more than even a slow guest needs.
enum { patience = 50 };

struct ring {
  uint32_t *producer, *consumer, *flags;
  void *entries;
};

static uint8_t *memory;
static int port;
static struct ring fill, completion, transmit, receive;

static void die(const char *what) {
  fprintf(stderr, "afxdp: %s: %s\n", what, strerror(errno));
  exit(1);
}

static uint32_t load(uint32_t *index) { return __atomic_load_n(index, __ATOMIC_ACQUIRE); }
static void store(uint32_t *index, uint32_t value) {
  __atomic_store_n(index, value, __ATOMIC_RELEASE);
}

// The frame of a size: broadcast, an address of nobody's, a local experimental type, the pattern.
static void write_frame(uint8_t *at, unsigned size) {
  memset(at, 0xff, 6);
  memcpy(at + 6, "\x02\0\0\0\0\x78\x88\xb5", 8);
  for (unsigned i = header; i < size; i++) at[i] = i * 31 + size * 7 + (i >> 8);
}

static struct ring map_ring(const struct xdp_ring_offset *offset, size_t entry, off_t page) {
  size_t length = offset->desc + entries * entry;
  uint8_t *base =
      mmap(NULL, length, PROT_READ | PROT_WRITE, MAP_SHARED | MAP_POPULATE, port, page);
  if (base == MAP_FAILED) die("mapping a ring");
  return (struct ring){(uint32_t *)(base + offset->producer),
                       (uint32_t *)(base + offset->consumer), (uint32_t *)(base + offset->flags),
                       base + offset->desc};
}

static void open_socket(unsigned interface, unsigned queue, int zero_copy) {
  port = socket(AF_XDP, SOCK_RAW, 0);
  if (port < 0) die("socket(AF_XDP)");
  memory = mmap(NULL, (size_t)chunk * frames, PROT_READ | PROT_WRITE,
                MAP_PRIVATE | MAP_ANONYMOUS | MAP_POPULATE, -1, 0);
  if (memory == MAP_FAILED) die("frame memory");
  struct xdp_umem_reg registration = {.addr = (uintptr_t)memory,
                                      .len = (uint64_t)chunk * frames,
                                      .chunk_size = chunk,
                                      .flags = zero_copy ? 0 : XDP_UMEM_UNALIGNED_CHUNK_FLAG};
  if (setsockopt(port, SOL_XDP, XDP_UMEM_REG, &registration, sizeof registration))
    die("XDP_UMEM_REG");
  static const int options[] = {XDP_UMEM_FILL_RING, XDP_UMEM_COMPLETION_RING, XDP_TX_RING,
                                XDP_RX_RING};
  for (int i = 0; i < 4; i++) {
    int count = entries;
    if (setsockopt(port, SOL_XDP, options[i], &count, sizeof count)) die("a ring's size");
  }
  struct xdp_mmap_offsets offsets;
  socklen_t length = sizeof offsets;
  if (getsockopt(port, SOL_XDP, XDP_MMAP_OFFSETS, &offsets, &length)) die("XDP_MMAP_OFFSETS");
  fill = map_ring(&offsets.fr, sizeof(uint64_t), XDP_UMEM_PGOFF_FILL_RING);
  completion = map_ring(&offsets.cr, sizeof(uint64_t), XDP_UMEM_PGOFF_COMPLETION_RING);
  transmit = map_ring(&offsets.tx, sizeof(struct xdp_desc), XDP_PGOFF_TX_RING);
  receive = map_ring(&offsets.rx, sizeof(struct xdp_desc), XDP_PGOFF_RX_RING);
  struct sockaddr_xdp address = {
      .sxdp_family = AF_XDP,
      .sxdp_ifindex = interface,
      .sxdp_queue_id = queue,
      .sxdp_flags = XDP_USE_NEED_WAKEUP | (zero_copy ? XDP_ZEROCOPY : XDP_COPY)};
  if (bind(port, (struct sockaddr *)&address, sizeof address)) die("bind");
}

// The physical range of the frames, by the kernel's page map of this process.
static void physical_range(unsigned long *from, unsigned long *to) {
  int map = open("/proc/self/pagemap", O_RDONLY);
  *from = ~0ul, *to = 0;
  for (uintptr_t at = (uintptr_t)memory; at < (uintptr_t)memory + chunk * frames; at += 4096) {
    uint64_t entry = 0;
    if (pread(map, &entry, sizeof entry, at / 4096 * sizeof entry) != sizeof entry) die("pagemap");
    unsigned long mebibyte = (entry & ((1ull << 55) - 1)) >> 8;
    if (mebibyte < *from) *from = mebibyte;
    if (mebibyte > *to) *to = mebibyte;
  }
  close(map);
}

static int send_all(int zero_copy) {
  struct xdp_desc *descriptors = transmit.entries;
  uint64_t next = 1; // unaligned: one odd byte between a frame and the next one
  for (unsigned i = 0; i < sizes; i++) {
    uint64_t address = zero_copy ? (uint64_t)i * chunk : next;
    write_frame(memory + address, smallest + i);
    descriptors[i] = (struct xdp_desc){.addr = address, .len = smallest + i};
    next += smallest + i + 1;
  }
  store(transmit.producer, sizes);
  time_t end = time(NULL) + patience;
  while (load(completion.producer) < sizes && time(NULL) < end) {
    if (sendto(port, NULL, 0, MSG_DONTWAIT, NULL, 0) < 0 && errno != EAGAIN && errno != EBUSY &&
        errno != ENOBUFS)
      die("sendto");
    usleep(500);
  }
  unsigned long from, to;
  physical_range(&from, &to);
  printf("sent %u, memory %lu-%lu\n", load(completion.producer), from, to);
  return load(completion.producer) != sizes;
}

static int bpf(int command, union bpf_attr *attributes) {
  return syscall(SYS_bpf, command, attributes, sizeof *attributes);
}

// Redirects the frames of one queue into the socket, and leaves the others to the kernel. It lives
// as long as this process.
static void attach_program(unsigned interface, unsigned queue, int skb) {
  union bpf_attr map = {.map_type = BPF_MAP_TYPE_XSKMAP,
                        .key_size = 4,
                        .value_size = 4,
                        .max_entries = 64};
  int sockets = bpf(BPF_MAP_CREATE, &map);
  if (sockets < 0) die("BPF_MAP_CREATE");
  struct bpf_insn program[] = {
      {.code = BPF_LDX | BPF_MEM | BPF_W, .dst_reg = 2, .src_reg = 1,
       .off = offsetof(struct xdp_md, rx_queue_index)},
      {.code = BPF_LD | BPF_IMM | BPF_DW, .dst_reg = 1, .src_reg = BPF_PSEUDO_MAP_FD,
       .imm = sockets},
      {.code = 0},
      {.code = BPF_ALU64 | BPF_MOV | BPF_K, .dst_reg = 3, .imm = XDP_PASS},
      {.code = BPF_JMP | BPF_CALL, .imm = BPF_FUNC_redirect_map},
      {.code = BPF_JMP | BPF_EXIT},
  };
  static char log[4096];
  union bpf_attr load = {.prog_type = BPF_PROG_TYPE_XDP,
                         .insns = (uintptr_t)program,
                         .insn_cnt = sizeof program / sizeof *program,
                         .license = (uintptr_t) "GPL",
                         .log_buf = (uintptr_t)log,
                         .log_size = sizeof log,
                         .log_level = 1,
                         .expected_attach_type = BPF_XDP};
  int loaded = bpf(BPF_PROG_LOAD, &load);
  if (loaded < 0) fputs(log, stderr), die("BPF_PROG_LOAD");
  union bpf_attr update = {.map_fd = sockets, .key = (uintptr_t)&queue, .value = (uintptr_t)&port};
  if (bpf(BPF_MAP_UPDATE_ELEM, &update)) die("BPF_MAP_UPDATE_ELEM");
  union bpf_attr link = {.link_create = {.prog_fd = loaded,
                                         .target_ifindex = interface,
                                         .attach_type = BPF_XDP,
                                         .flags = skb ? XDP_FLAGS_SKB_MODE : XDP_FLAGS_DRV_MODE}};
  if (bpf(BPF_LINK_CREATE, &link) < 0) die("BPF_LINK_CREATE");
}

static int receive_all(void) {
  uint64_t *free_frames = fill.entries;
  for (unsigned i = 0; i < frames; i++) free_frames[i] = (uint64_t)i * chunk;
  store(fill.producer, frames);
  puts("ready");
  fflush(stdout);

  static uint8_t expected[largest], seen[largest + 1];
  struct xdp_desc *descriptors = receive.entries;
  unsigned equal = 0, different = 0, consumed = 0;
  time_t end = time(NULL) + patience;
  while (equal < sizes && time(NULL) < end) {
    struct pollfd wait = {.fd = port, .events = POLLIN};
    poll(&wait, 1, 100);
    for (uint32_t produced = load(receive.producer); consumed != produced; consumed++) {
      struct xdp_desc frame = descriptors[consumed % entries];
      uint8_t *at = memory + (frame.addr & XSK_UNALIGNED_BUF_ADDR_MASK) +
                    (frame.addr >> XSK_UNALIGNED_BUF_OFFSET_SHIFT);
      if (frame.len >= header && !memcmp(at + 12, "\x88\xb5", 2)) {
        int known = frame.len >= smallest && frame.len <= largest;
        if (known) write_frame(expected, frame.len);
        if (!known || memcmp(at, expected, frame.len)) {
          if (!different++) fprintf(stderr, "different: a frame of %u bytes\n", frame.len);
        } else if (!seen[frame.len]) {
          seen[frame.len] = 1, equal++;
        }
      }
      uint32_t at_fill = *fill.producer;
      free_frames[at_fill % entries] = frame.addr & XSK_UNALIGNED_BUF_ADDR_MASK;
      store(fill.producer, at_fill + 1);
    }
    store(receive.consumer, consumed);
  }
  printf("equal %u, different %u\n", equal, different);
  return equal != sizes || different;
}

int main(int count, char **words) {
  unsigned queue = 0;
  int zero_copy = 0, skb = 0;
  if (count < 3) return fputs("usage: afxdp send|receive IFNAME [OPTION...]\n", stderr), 2;
  for (int i = 3; i < count; i++) {
    if (!strncmp(words[i], "queue=", 6)) queue = atoi(words[i] + 6);
    else if (!strcmp(words[i], "zero-copy")) zero_copy = 1;
    else if (!strcmp(words[i], "skb")) skb = 1;
    else return fprintf(stderr, "afxdp: unknown option %s\n", words[i]), 2;
  }
  unsigned interface = if_nametoindex(words[2]);
  if (!interface) die(words[2]);
  open_socket(interface, queue, zero_copy);
  if (!strcmp(words[1], "send")) return send_all(zero_copy);
  attach_program(interface, queue, skb);
  return receive_all();
}
