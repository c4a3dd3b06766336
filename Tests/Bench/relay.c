/* The kernel's way, for `make bench`: what vhost-net's worker does, in a process of its own.
 *
 *   relay SOCKET TAP
 *
 * A vhost-user back-end whose other side is a tap device, which is joined to the wire by a bridge.
 * Like vhost-net's worker (drivers/vhost/net.c) it is one thread for both directions, sleeps when
 * there is nothing to do, and copies once: from guest memory into the kernel's packet, or back, by
 * one writev or readv of the guest's own buffers with the virtio-net header in front.  It leaves to
 * guest and stack what they leave to each other there: checksums and segments.
 *
 * What it has that vhost-net has not: a system call for each packet and one for each sleep, about
 * 0.2 microseconds.  What vhost-net has and this has not: small packets handed to the tap in
 * batches, calls into the guest without an eventfd read, busy polling where it is switched on.
 * What neither has: a second copy.
 *
 * The driver is trusted: this is a tool to compare with, not a back-end to run.
 */
#define _GNU_SOURCE
#include <errno.h>
#include <fcntl.h>
#include <linux/if.h>
#include <linux/if_tun.h>
#include <linux/virtio_net.h>
#include <linux/virtio_ring.h>
#include <poll.h>
#include <stdarg.h>
#include <stdbool.h>
#include <stdint.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/ioctl.h>
#include <sys/mman.h>
#include <sys/socket.h>
#include <sys/uio.h>
#include <sys/un.h>
#include <unistd.h>

#ifndef TUN_F_USO4
#define TUN_F_USO4 0x20
#define TUN_F_USO6 0x40
#endif

enum { REGIONS = 8, HEADER = 12, LARGEST = 65600, PARTS = 1024 };
/* vhost-net's: packets in a turn of a direction, and used elements that are told of together. */
enum { WEIGHT = 256, BATCH = 64 };

#define BIT(number) (1ULL << (number))
static const uint64_t guest_features = BIT(1) | BIT(7) | BIT(8) | BIT(9) | BIT(54) | BIT(55);
static const uint64_t host_features = BIT(0) | BIT(11) | BIT(12) | BIT(13) | BIT(56);
static const uint64_t ring_features = BIT(15) | BIT(29) | BIT(32);

struct region {
  uint64_t guest, size, front_end, offset;
  char *base;
};

struct queue {
  unsigned size;
  struct vring_desc *descriptors;
  struct vring_avail *avail;
  struct vring_used *used;
  uint16_t next, used_next, told;
  int kick, call;
};

static struct region regions[REGIONS];
static unsigned region_count;
static struct queue queues[2] = {{.kick = -1, .call = -1}, {.kick = -1, .call = -1}};
static uint64_t features;
static int tap;

static void fail(const char *format, ...) {
  va_list arguments;
  va_start(arguments, format);
  fputs("relay: ", stderr);
  vfprintf(stderr, format, arguments);
  if (errno) fprintf(stderr, ": %s", strerror(errno));
  fputc('\n', stderr);
  exit(1);
}

/* --- Guest memory ------------------------------------------------------------------------- */

static void *translate(uint64_t address, bool front_end) {
  for (unsigned i = 0; i < region_count; i++) {
    uint64_t offset = address - (front_end ? regions[i].front_end : regions[i].guest);
    if (offset < regions[i].size) return regions[i].base + offset;
  }
  errno = 0;
  fail("address 0x%llx is in no region", (unsigned long long)address);
  return NULL;
}

/* --- Rings -------------------------------------------------------------------------------- */

static bool is_running(const struct queue *queue) { return queue->kick >= 0 && queue->descriptors; }

static unsigned available(const struct queue *queue) {
  return (uint16_t)(__atomic_load_n(&queue->avail->idx, __ATOMIC_ACQUIRE) - queue->next);
}

/* Appends the buffers of the chain `ahead` of the next one; returns how many there are now. */
static unsigned gather(struct queue *queue, unsigned ahead, struct iovec *parts, unsigned count) {
  uint16_t i = queue->avail->ring[(uint16_t)(queue->next + ahead) & (queue->size - 1)];
  while (count < PARTS) {
    struct vring_desc *descriptor = &queue->descriptors[i];
    parts[count].iov_base = translate(descriptor->addr, false);
    parts[count++].iov_len = descriptor->len;
    if (!(descriptor->flags & VRING_DESC_F_NEXT)) break;
    i = descriptor->next;
  }
  return count;
}

static void give_back(struct queue *queue, uint32_t length) {
  struct vring_used_elem *element = &queue->used->ring[queue->used_next++ & (queue->size - 1)];
  element->id = queue->avail->ring[queue->next++ & (queue->size - 1)];
  element->len = length;
}

/* Shows the driver what was given back, and calls if it asked for that. */
static void tell(struct queue *queue) {
  if (queue->used_next == queue->told) return;
  __atomic_store_n(&queue->used->idx, queue->used_next, __ATOMIC_RELEASE);
  __atomic_thread_fence(__ATOMIC_SEQ_CST);
  bool wanted;
  if (features & BIT(29)) {
    uint16_t event = *(volatile uint16_t *)&queue->avail->ring[queue->size];
    wanted = (uint16_t)(queue->used_next - event - 1) < (uint16_t)(queue->used_next - queue->told);
  } else {
    wanted = !(*(volatile uint16_t *)&queue->avail->flags & VRING_AVAIL_F_NO_INTERRUPT);
  }
  queue->told = queue->used_next;
  if (wanted && queue->call >= 0 && write(queue->call, &(uint64_t){1}, 8) < 0 && errno != EAGAIN)
    fail("call");
}

/* Asks for kicks, or for none.  Returns whether more than `known` is available by now. */
static bool want_kicks(struct queue *queue, bool wanted, unsigned known) {
  if (features & BIT(29)) {
    volatile uint16_t *event = (volatile void *)&queue->used->ring[queue->size];
    if (wanted) *event = queue->next + known;
  } else {
    queue->used->flags = wanted ? 0 : VRING_USED_F_NO_NOTIFY;
  }
  __atomic_thread_fence(__ATOMIC_SEQ_CST);
  return available(queue) > known;
}

/* --- Packets ------------------------------------------------------------------------------ */

/* Returns whether there is more to do. */
static bool transmit(struct queue *queue) {
  static struct iovec parts[PARTS];
  unsigned done = 0, ready = 0;
  while (done < WEIGHT) {
    if (!ready && !(ready = available(queue))) break;
    unsigned count = gather(queue, 0, parts, 0);
    /* What the tap refuses is lost, as with vhost-net. */
    if (writev(tap, parts, count) < 0 && errno == EBADFD) fail("the tap is gone");
    give_back(queue, 0);
    ready--;
    if (++done % BATCH == 0) tell(queue);
  }
  tell(queue);
  return done == WEIGHT;
}

/* Buffers of the receive ring that were looked up and not used yet. */
static struct {
  struct iovec parts[2 * PARTS];
  unsigned begin, end;
  size_t room;
} stock;

/* Looks up enough for the largest packet; returns whether there is enough. */
static bool stock_up(struct queue *queue) {
  size_t needed = features & guest_features & ~BIT(1) ? LARGEST : 1526 + HEADER;
  if (stock.room >= needed) return true;
  memmove(stock.parts, stock.parts + stock.begin, (stock.end - stock.begin) * sizeof(struct iovec));
  stock.end -= stock.begin;
  stock.begin = 0;
  unsigned ready = available(queue);
  while (stock.end < ready && stock.end < PARTS) {
    unsigned end = gather(queue, stock.end, stock.parts, stock.end);
    if (end != stock.end + 1) errno = 0, fail("a receive chain of %u buffers", end - stock.end);
    stock.room += stock.parts[stock.end++].iov_len;
  }
  return stock.room >= needed;
}

enum outcome { EMPTY, MORE, NO_ROOM };

static enum outcome receive(struct queue *queue) {
  for (unsigned done = 0; done < WEIGHT; done++) {
    if (!stock_up(queue)) return tell(queue), NO_ROOM;
    unsigned count = stock.end - stock.begin;
    struct iovec *parts = stock.parts + stock.begin;
    ssize_t length = readv(tap, parts, count < 64 ? count : 64);
    if (length < 0) {
      if (errno != EAGAIN) fail("the tap cannot be read");
      return tell(queue), EMPTY;
    }
    struct virtio_net_hdr_mrg_rxbuf *header = parts[0].iov_base;
    unsigned used = 0;
    for (size_t left = length; left > 0; used++) {
      size_t own = left < parts[used].iov_len ? left : parts[used].iov_len;
      stock.room -= parts[used].iov_len;
      give_back(queue, own);
      left -= own;
    }
    header->num_buffers = used;
    stock.begin += used;
    if (done % BATCH == BATCH - 1) tell(queue);
  }
  return tell(queue), MORE;
}

/* --- The front-end ------------------------------------------------------------------------ */

struct message {
  uint32_t request, flags, size;
  union {
    uint64_t number;
    struct { uint32_t index, number; } state;
    struct { uint32_t index, flags; uint64_t descriptors, used, avail, log; } addresses;
    struct {
      uint32_t count, padding;
      struct { uint64_t guest, size, front_end, offset; } regions[REGIONS];
    } memory;
    char bytes[512];
  } payload;
} __attribute__((packed));

static void open_tap(const char *name) {
  tap = open("/dev/net/tun", O_RDWR | O_NONBLOCK | O_CLOEXEC);
  struct ifreq request = {.ifr_flags = IFF_TAP | IFF_NO_PI | IFF_VNET_HDR};
  strncpy(request.ifr_name, name, IFNAMSIZ - 1);
  int size = HEADER;
  if (tap < 0 || ioctl(tap, TUNSETIFF, &request) || ioctl(tap, TUNSETVNETHDRSZ, &size))
    fail("cannot make the tap %s", name);
}

static void set_features(uint64_t wanted) {
  features = wanted;
  unsigned offloads = 0;
  if (features & BIT(1)) offloads |= TUN_F_CSUM;
  if (features & BIT(7)) offloads |= TUN_F_TSO4;
  if (features & BIT(8)) offloads |= TUN_F_TSO6;
  if (features & BIT(9)) offloads |= TUN_F_TSO_ECN;
  unsigned udp = features & BIT(54) && features & BIT(55) ? TUN_F_USO4 | TUN_F_USO6 : 0;
  if (ioctl(tap, TUNSETOFFLOAD, offloads | udp) && ioctl(tap, TUNSETOFFLOAD, offloads))
    fail("the tap refuses offloads 0x%x", offloads);
}

static void map_memory(struct message *message, const int *descriptors, unsigned count) {
  region_count = message->payload.memory.count;
  if (region_count > REGIONS || count != region_count) fail("%u memory regions", region_count);
  for (unsigned i = 0; i < region_count; i++) {
    regions[i].guest = message->payload.memory.regions[i].guest;
    regions[i].size = message->payload.memory.regions[i].size;
    regions[i].front_end = message->payload.memory.regions[i].front_end;
    regions[i].offset = message->payload.memory.regions[i].offset;
    regions[i].base = mmap(NULL, regions[i].size, PROT_READ | PROT_WRITE, MAP_SHARED,
                           descriptors[i], regions[i].offset);
    if (regions[i].base == MAP_FAILED) fail("guest memory");
    close(descriptors[i]);
  }
}

static void answer(int socket, struct message *message, uint32_t size) {
  message->flags = 1 | 4;
  message->size = size;
  if (send(socket, message, 12 + size, 0) != (ssize_t)(12 + size)) fail("answer");
}

/* Handles one request; returns false when the front-end has gone. */
static bool handle(int socket) {
  struct message message;
  char control[CMSG_SPACE(sizeof(int) * REGIONS)];
  struct iovec head = {&message, 12};
  struct msghdr header = {.msg_iov = &head, .msg_iovlen = 1, .msg_control = control,
                          .msg_controllen = sizeof control};
  if (recvmsg(socket, &header, MSG_CMSG_CLOEXEC | MSG_WAITALL) != 12) return false;
  if (message.size > sizeof message.payload ||
      (message.size && recv(socket, &message.payload, message.size, MSG_WAITALL) != message.size))
    fail("request %u of %u bytes", message.request, message.size);
  int descriptors[REGIONS];
  unsigned count = 0;
  struct cmsghdr *part = CMSG_FIRSTHDR(&header);
  if (part && part->cmsg_type == SCM_RIGHTS) {
    count = (part->cmsg_len - CMSG_LEN(0)) / sizeof(int);
    memcpy(descriptors, CMSG_DATA(part), count * sizeof(int));
  }
  struct queue *queue = &queues[message.payload.state.index & 1];
  switch (message.request) {
    case 1:
      message.payload.number = guest_features | host_features | ring_features;
      answer(socket, &message, 8);
      break;
    case 2: set_features(message.payload.number); break;
    case 5: map_memory(&message, descriptors, count); break;
    case 8: queue->size = message.payload.state.number; break;
    case 9:
      queue->descriptors = translate(message.payload.addresses.descriptors, true);
      queue->used = translate(message.payload.addresses.used, true);
      queue->avail = translate(message.payload.addresses.avail, true);
      break;
    case 10:
      queue->next = queue->used_next = queue->told = message.payload.state.number;
      break;
    case 11:
      message.payload.state.number = queue->next;
      queue->descriptors = NULL;
      answer(socket, &message, 8);
      break;
    case 12: queue->kick = count ? descriptors[0] : -1; break;
    case 13: queue->call = count ? descriptors[0] : -1; break;
    default: break;
  }
  return true;
}

static int front_end(const char *path) {
  struct sockaddr_un address = {.sun_family = AF_UNIX};
  strncpy(address.sun_path, path, sizeof address.sun_path - 1);
  int listener = socket(AF_UNIX, SOCK_STREAM | SOCK_CLOEXEC, 0);
  unlink(path);
  if (listener < 0 || bind(listener, (struct sockaddr *)&address, sizeof address) ||
      listen(listener, 1))
    fail("cannot listen at %s", path);
  int connection = accept(listener, NULL, NULL);
  if (connection < 0) fail("accept");
  return connection;
}

static void drain(int descriptor) {
  uint64_t value;
  if (read(descriptor, &value, 8) < 0 && errno != EAGAIN) fail("kick");
}

int main(int count, char **arguments) {
  if (count != 3) {
    fputs("usage: relay SOCKET TAP\n", stderr);
    return 2;
  }
  open_tap(arguments[2]);
  int socket = front_end(arguments[1]);
  bool transmit_due = false, receive_due = false;
  while (true) {
    bool sends = is_running(&queues[1]), receives = is_running(&queues[0]);
    if (transmit_due) transmit_due = sends && transmit(&queues[1]);
    enum outcome received = receive_due && receives ? receive(&queues[0]) : EMPTY;
    receive_due = received == MORE;
    /* As vhost-net: asks for a kick, and looks once more before it sleeps. */
    if (sends && !transmit_due) transmit_due = want_kicks(&queues[1], true, 0);
    bool no_room = received == NO_ROOM;
    if (no_room) receive_due = want_kicks(&queues[0], true, stock.end - stock.begin);
    struct pollfd wanted[4] = {
        {socket, POLLIN, 0},
        {sends ? queues[1].kick : -1, POLLIN, 0},
        {no_room ? queues[0].kick : -1, POLLIN, 0},
        {receives && !no_room && !receive_due ? tap : -1, POLLIN, 0},
    };
    if (poll(wanted, 4, transmit_due || receive_due ? 0 : -1) < 0 && errno != EINTR) fail("poll");
    if (wanted[1].revents) drain(wanted[1].fd), transmit_due = true;
    if (wanted[2].revents) drain(wanted[2].fd);
    if (wanted[2].revents || wanted[3].revents) receive_due = true;
    if (wanted[0].revents) {
      if (!handle(socket)) return 0;
      transmit_due = receive_due = true;
    }
  }
}
