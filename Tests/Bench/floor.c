// What AF_XDP itself costs on an interface: the floor under every back-end that uses it.  And the
// far end of a wire: a sender that keeps to a rate, and a reflector.
//
//   floor transmit IFACE SIZE SECONDS      sends as fast as it can
//   floor receive IFACE SECONDS            takes what comes and drops it
//   floor forward IFACE SIZE SECONDS N     puts N frames on the wire, and sends back what comes
//   floor send IFACE SIZE SECONDS RATE     RATE frames a second, in a burst every 100 microseconds;
//                                          RATE 0: as many as fit 60 % of a CPU
//   floor reflect IFACE SECONDS            has the driver send back what comes (XDP_TX)
//
// The first three warm up for a fifth of a second, and print one line of JSON at the end: frames,
// seconds, CPU time (user and system apart), and the part of it that was not idle polling.  They
// busy-poll, with the rings and the batches of a good user: 2048 frames, 64 at a time, a wake-up
// for each batch.  SIGTERM ends all of them.
//
// Raw system calls, no library: nothing is in the figure that a back-end could leave away.
#define _GNU_SOURCE
#include <errno.h>
#include <linux/bpf.h>
#include <linux/if_link.h>
#include <linux/if_xdp.h>
#include <net/if.h>
#include <sched.h>
#include <signal.h>
#include <stddef.h>
#include <stdint.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/mman.h>
#include <sys/resource.h>
#include <sys/socket.h>
#include <sys/syscall.h>
#include <time.h>
#include <unistd.h>

#ifndef XDP_MAX_TX_SKB_BUDGET
#define XDP_MAX_TX_SKB_BUDGET 9
#endif

enum { RING = 2048, CHUNK = 2048, CHUNKS = 2 * RING, BATCH = 64 };

static volatile sig_atomic_t ended;

static void end(int signal_number) {
  (void)signal_number;
  ended = 1;
}

static void die(const char *what) {
  fprintf(stderr, "floor: %s: %s\n", what, strerror(errno));
  exit(1);
}

static uint64_t nanoseconds(clockid_t clock) {
  struct timespec t;
  clock_gettime(clock, &t);
  return (uint64_t)t.tv_sec * 1000000000u + (uint64_t)t.tv_nsec;
}

// One of the four rings that are shared with the kernel.
struct ring {
  uint32_t *producer, *consumer;
  void *entries;
  uint32_t next;  // ours, not yet published
};

static struct {
  int fd;
  uint8_t *frames;
  struct ring receive, transmit, fill, completion;
} socket_;

static uint32_t produced(const struct ring *ring) {
  return __atomic_load_n(ring->producer, __ATOMIC_ACQUIRE);
}

static struct xdp_desc *descriptor(struct ring *ring) {
  return (struct xdp_desc *)ring->entries + (ring->next++ & (RING - 1));
}

static uint64_t *address(struct ring *ring) {
  return (uint64_t *)ring->entries + (ring->next++ & (RING - 1));
}

static void publish_produced(struct ring *ring) {
  __atomic_store_n(ring->producer, ring->next, __ATOMIC_RELEASE);
}

static void publish_consumed(struct ring *ring) {
  __atomic_store_n(ring->consumer, ring->next, __ATOMIC_RELEASE);
}

static void set(int option, int value, const char *what) {
  if (setsockopt(socket_.fd, SOL_XDP, option, &value, sizeof value)) die(what);
}

static void map(struct ring *ring, const struct xdp_ring_offset *at, size_t entry, off_t page) {
  uint8_t *memory = mmap(NULL, at->desc + RING * entry, PROT_READ | PROT_WRITE,
                         MAP_SHARED | MAP_POPULATE, socket_.fd, page);
  if (memory == MAP_FAILED) die("mmap of a ring");
  ring->producer = (uint32_t *)(memory + at->producer);
  ring->consumer = (uint32_t *)(memory + at->consumer);
  ring->entries = memory + at->desc;
}

// The first half of the chunks is transmitted from, the second half received into.
static void open_socket(unsigned interface) {
  socket_.fd = socket(AF_XDP, SOCK_RAW, 0);
  if (socket_.fd < 0) die("socket(AF_XDP)");
  size_t length = (size_t)CHUNKS * CHUNK;
  socket_.frames = mmap(NULL, length, PROT_READ | PROT_WRITE, MAP_PRIVATE | MAP_ANONYMOUS, -1, 0);
  if (socket_.frames == MAP_FAILED) die("mmap of the frames");
  memset(socket_.frames, 0x5a, length);
  for (unsigned i = 0; i < CHUNKS; i++)
    memcpy(socket_.frames + (size_t)i * CHUNK, "\x02\0\0\0\0\1\x02\0\0\0\0\2\x88\xb5", 14);
  struct xdp_umem_reg memory = {
      .addr = (uint64_t)socket_.frames, .len = length, .chunk_size = CHUNK};
  if (setsockopt(socket_.fd, SOL_XDP, XDP_UMEM_REG, &memory, sizeof memory)) die("XDP_UMEM_REG");
  set(XDP_UMEM_FILL_RING, RING, "XDP_UMEM_FILL_RING");
  set(XDP_UMEM_COMPLETION_RING, RING, "XDP_UMEM_COMPLETION_RING");
  set(XDP_RX_RING, RING, "XDP_RX_RING");
  set(XDP_TX_RING, RING, "XDP_TX_RING");
  struct xdp_mmap_offsets at;
  socklen_t at_length = sizeof at;
  if (getsockopt(socket_.fd, SOL_XDP, XDP_MMAP_OFFSETS, &at, &at_length)) die("XDP_MMAP_OFFSETS");
  map(&socket_.fill, &at.fr, sizeof(uint64_t), (off_t)XDP_UMEM_PGOFF_FILL_RING);
  map(&socket_.completion, &at.cr, sizeof(uint64_t), (off_t)XDP_UMEM_PGOFF_COMPLETION_RING);
  map(&socket_.receive, &at.rx, sizeof(struct xdp_desc), XDP_PGOFF_RX_RING);
  map(&socket_.transmit, &at.tx, sizeof(struct xdp_desc), XDP_PGOFF_TX_RING);
  struct sockaddr_xdp name = {.sxdp_family = AF_XDP,
                              .sxdp_flags = XDP_COPY | XDP_USE_NEED_WAKEUP,
                              .sxdp_ifindex = interface};
  // The socket of a process that has just ended is given back a little later.
  for (int i = 0; bind(socket_.fd, (struct sockaddr *)&name, sizeof name); i++) {
    if (errno != EBUSY || i == 200) die("bind");
    usleep(5000);
  }
  int budget = 256;  // since Linux 6.17; before, 32
  setsockopt(socket_.fd, SOL_XDP, XDP_MAX_TX_SKB_BUDGET, &budget, sizeof budget);
  for (unsigned i = RING; i < CHUNKS; i++) *address(&socket_.fill) = (uint64_t)i * CHUNK;
  publish_produced(&socket_.fill);
}

static long bpf(int command, union bpf_attr *attributes) {
  return syscall(__NR_bpf, command, attributes, sizeof *attributes);
}

static void attach(const struct bpf_insn *code, unsigned count, unsigned interface) {
  static char log[16384];
  union bpf_attr load = {.prog_type = BPF_PROG_TYPE_XDP,
                         .insns = (uint64_t)code,
                         .insn_cnt = count,
                         .license = (uint64_t) "Dual BSD/GPL",
                         .log_buf = (uint64_t)log,
                         .log_size = sizeof log,
                         .log_level = 1,
                         .expected_attach_type = BPF_XDP};
  int program = (int)bpf(BPF_PROG_LOAD, &load);
  if (program < 0) die(log);
  union bpf_attr link = {.link_create = {.prog_fd = (uint32_t)program,
                                         .target_ifindex = interface,
                                         .attach_type = BPF_XDP}};
  // Open until the process ends, and the program is attached as long.
  if (bpf(BPF_LINK_CREATE, &link) < 0) die("attaching the XDP program");
}

static struct bpf_insn instruction(uint8_t code, int to, int from, int16_t offset, int32_t value) {
  return (struct bpf_insn){.code = code,
                           .dst_reg = (uint8_t)(to & 15),
                           .src_reg = (uint8_t)(from & 15),
                           .off = offset,
                           .imm = value};
}

// return bpf_redirect_map(&sockets, ctx->rx_queue_index, XDP_PASS)
static void redirect_to_socket(unsigned interface) {
  union bpf_attr create = {
      .map_type = BPF_MAP_TYPE_XSKMAP, .key_size = 4, .value_size = 4, .max_entries = 64};
  int sockets = (int)bpf(BPF_MAP_CREATE, &create);
  if (sockets < 0) die("creating the map of sockets");
  uint32_t queue = 0;
  union bpf_attr update = {.map_fd = (uint32_t)sockets,
                           .key = (uint64_t)&queue,
                           .value = (uint64_t)&socket_.fd};
  if (bpf(BPF_MAP_UPDATE_ELEM, &update)) die("adding the socket to its map");
  struct bpf_insn code[] = {
      instruction(BPF_LDX | BPF_MEM | BPF_W, 2, 1, offsetof(struct xdp_md, rx_queue_index), 0),
      instruction(BPF_LD | BPF_DW | BPF_IMM, 1, BPF_PSEUDO_MAP_FD, 0, sockets),
      instruction(0, 0, 0, 0, 0),
      instruction(BPF_ALU64 | BPF_MOV | BPF_K, 3, 0, 0, XDP_PASS),
      instruction(BPF_JMP | BPF_CALL, 0, 0, 0, BPF_FUNC_redirect_map),
      instruction(BPF_JMP | BPF_EXIT, 0, 0, 0, 0)};
  attach(code, sizeof code / sizeof *code, interface);
}

static void reflect(unsigned interface) {
  struct bpf_insn code[] = {instruction(BPF_ALU64 | BPF_MOV | BPF_K, 0, 0, 0, XDP_TX),
                            instruction(BPF_JMP | BPF_EXIT, 0, 0, 0, 0)};
  attach(code, sizeof code / sizeof *code, interface);
}

// Has the kernel send; frames that the device refuses (EBUSY) are completed like others.
static void wake_up(void) {
  if (sendto(socket_.fd, NULL, 0, MSG_DONTWAIT, NULL, 0) < 0 && errno != EAGAIN &&
      errno != EBUSY && errno != ENOBUFS && errno != ENETDOWN)
    die("sendto");
}

static uint32_t in_flight(void) { return socket_.transmit.next - socket_.completion.next; }

// Takes completions; only their number counts, except for forward, which reuses the chunks.
static void complete(int refill) {
  uint32_t count = produced(&socket_.completion) - socket_.completion.next;
  for (uint32_t i = 0; i < count; i++) {
    uint64_t chunk = *address(&socket_.completion) & ~(uint64_t)(CHUNK - 1);
    if (refill && chunk >= (uint64_t)RING * CHUNK) *address(&socket_.fill) = chunk;
  }
  publish_consumed(&socket_.completion);
  if (refill) publish_produced(&socket_.fill);
}

// Returns when the kernel has sent them all but less than half a ring.
static void transmit(uint32_t count, unsigned size) {
  static uint32_t chunk;
  for (uint32_t i = 0; i < count; i++)
    *descriptor(&socket_.transmit) =
        (struct xdp_desc){.addr = (uint64_t)(chunk++ & (RING - 1)) * CHUNK, .len = size};
  publish_produced(&socket_.transmit);
  do {
    wake_up();
    complete(0);
  } while (in_flight() > RING / 2 && !ended);
}

static uint32_t receive(int forward) {
  uint32_t count = produced(&socket_.receive) - socket_.receive.next;
  if (count > BATCH) count = BATCH;
  if (forward && count > RING - in_flight()) count = RING - in_flight();
  for (uint32_t i = 0; i < count; i++) {
    struct xdp_desc frame = *descriptor(&socket_.receive);
    if (forward)
      *descriptor(&socket_.transmit) = (struct xdp_desc){.addr = frame.addr, .len = frame.len};
    else
      *address(&socket_.fill) = frame.addr & ~(uint64_t)(CHUNK - 1);
  }
  if (count) publish_consumed(&socket_.receive);
  if (forward) {
    if (count) publish_produced(&socket_.transmit);
    if (in_flight()) wake_up();
    complete(1);
  } else if (count) {
    publish_produced(&socket_.fill);
  }
  return count;
}

struct usage {
  uint64_t wall, cpu, user, system, idle, frames;
};

static struct usage usage(uint64_t idle, uint64_t frames) {
  struct rusage r;
  getrusage(RUSAGE_SELF, &r);
  return (struct usage){
      .wall = nanoseconds(CLOCK_MONOTONIC),
      .cpu = nanoseconds(CLOCK_PROCESS_CPUTIME_ID),
      .user = (uint64_t)r.ru_utime.tv_sec * 1000000000u + (uint64_t)r.ru_utime.tv_usec * 1000u,
      .system = (uint64_t)r.ru_stime.tv_sec * 1000000000u + (uint64_t)r.ru_stime.tv_usec * 1000u,
      .idle = idle,
      .frames = frames};
}

static void measure(const char *mode, unsigned size, double seconds) {
  uint64_t start = nanoseconds(CLOCK_MONOTONIC), begin = start + 200000000u;
  uint64_t end_time = begin + (uint64_t)(seconds * 1e9);
  uint64_t idle = 0, idle_since = 0, frames = 0, now = start;
  struct usage first = {0};
  for (uint32_t turn = 0; now < end_time && !ended; turn++) {
    uint32_t count = BATCH;
    if (mode[0] == 't') transmit(BATCH, size);
    else count = receive(mode[0] == 'f');
    frames += count;
    // Idle is from the first turn that found nothing to the first that found something.
    if (!count && !idle_since) idle_since = now = nanoseconds(CLOCK_MONOTONIC);
    else if (count && idle_since) {
      now = nanoseconds(CLOCK_MONOTONIC);
      idle += now - idle_since;
      idle_since = 0;
    } else if (turn % 16 == 0) now = nanoseconds(CLOCK_MONOTONIC);
    if (!first.wall && now >= begin) {
      if (idle_since) {
        idle += now - idle_since;
        idle_since = now;
      }
      first = usage(idle, frames);
    }
  }
  if (idle_since) idle += nanoseconds(CLOCK_MONOTONIC) - idle_since;
  struct usage last = usage(idle, frames);
  uint64_t cpu = last.cpu - first.cpu;
  uint64_t busy = (last.wall - first.wall) - (last.idle - first.idle);
  printf("{\"packets\": %llu, \"seconds\": %.6f, \"cpu_ns\": %llu, \"user_ns\": %llu, "
         "\"system_ns\": %llu, \"busy_ns\": %llu}\n",
         (unsigned long long)(last.frames - first.frames), (double)(last.wall - first.wall) / 1e9,
         (unsigned long long)cpu, (unsigned long long)(last.user - first.user),
         (unsigned long long)(last.system - first.system),
         (unsigned long long)(busy < cpu ? busy : cpu));
}

// Ahead of everything else on its CPU, but only in bursts: a driver that polls has the rest.
static void keep_rate(unsigned size, double seconds, double rate) {
  struct sched_param priority = {.sched_priority = 10};
  if (sched_setscheduler(0, SCHED_FIFO, &priority)) die("SCHED_FIFO");
  const uint64_t period = rate > 0 ? 100000 : 200000, share = period * 6 / 10;
  uint64_t due = nanoseconds(CLOCK_MONOTONIC), end_time = due + (uint64_t)(seconds * 1e9);
  double owed = 0;
  while (due < end_time && !ended) {
    if (rate > 0) {
      owed += rate * (double)period / 1e9;
      uint32_t count = owed > BATCH * 4 ? BATCH * 4 : (uint32_t)owed;
      owed = owed > BATCH * 4 ? 0 : owed - count;
      if (count) transmit(count, size);
    } else {
      while (nanoseconds(CLOCK_MONOTONIC) < due + share) transmit(16, size);
    }
    due += period;
    uint64_t now = nanoseconds(CLOCK_MONOTONIC);
    if (now > due + 10 * period) due = now;  // what was missed stays missed: no catching up
    struct timespec until = {.tv_sec = (time_t)(due / 1000000000u),
                             .tv_nsec = (long)(due % 1000000000u)};
    clock_nanosleep(CLOCK_MONOTONIC, TIMER_ABSTIME, &until, NULL);
  }
}

int main(int count, char **arguments) {
  const char *mode = count > 1 ? arguments[1] : "";
  int sized = !strcmp(mode, "transmit") || !strcmp(mode, "forward") || !strcmp(mode, "send");
  int needed = sized ? (strcmp(mode, "transmit") ? 6 : 5) : 4;
  if (count != needed || (!sized && strcmp(mode, "receive") && strcmp(mode, "reflect"))) {
    fprintf(stderr, "usage: see the head of floor.c\n");
    return 64;
  }
  unsigned interface = if_nametoindex(arguments[2]);
  if (!interface) die(arguments[2]);
  unsigned size = sized ? (unsigned)atoi(arguments[3]) : 0;
  double seconds = atof(arguments[sized ? 4 : 3]);
  if (sized && (size < 14 || size > CHUNK)) {
    fprintf(stderr, "floor: a frame has 14 to %d bytes, not %u\n", CHUNK, size);
    return 64;
  }
  signal(SIGTERM, end);
  signal(SIGINT, end);

  if (!strcmp(mode, "reflect")) {
    reflect(interface);
    puts("ready");
    fflush(stdout);
    for (uint64_t i = 0; i < (uint64_t)(seconds * 100) && !ended; i++) usleep(10000);
    return 0;
  }
  open_socket(interface);
  if (!strcmp(mode, "receive") || !strcmp(mode, "forward")) redirect_to_socket(interface);
  if (!strcmp(mode, "forward")) transmit((uint32_t)atoi(arguments[5]), size);
  puts("ready");
  fflush(stdout);
  if (!strcmp(mode, "send")) keep_rate(size, seconds, atof(arguments[5]));
  else measure(mode, size, seconds);
  return 0;
}
