/* What a peer's descriptor is, found out without asking the file: a file of a file system in user
 * space answers fstat(2), poll(2) and even close(2) when its server likes, which may be the peer.
 *
 * - F_GET_SEALS is answered by tmpfs (memfd_create, /dev/shm) and hugetlbfs alone, from memory.
 * - statx(2) that asks for nothing and wants no synchronisation gives type and device, from memory.
 * - An eventfd is of the device of all anonymous files, and of these the only one that takes eight
 *   bytes; zero is added, which wakes who waits for it once for nothing.  It is not asked by poll or epoll, since one epoll set in
 *   another asks whatever is in that. */
#define _GNU_SOURCE
#include "foreign.h"

#include <errno.h>
#include <fcntl.h>
#include <pthread.h>
#include <string.h>
#include <sys/eventfd.h>
#include <sys/socket.h>
#include <sys/stat.h>
#include <sys/un.h>
#include <unistd.h>

#ifndef F_GET_SEALS
#define F_GET_SEALS 1034
#endif

/* 0 if it cannot be said. */
static mode_t look(int fd, uint64_t *device) {
  struct statx status;
  if (statx(fd, "", AT_EMPTY_PATH | AT_STATX_DONT_SYNC, 0, &status) < 0) {
    *device = UINT64_MAX;
    return 0;
  }
  *device = (uint64_t)status.stx_dev_major << 32 | status.stx_dev_minor;
  return status.stx_mode & S_IFMT;
}

static uint64_t anonymous_device;
static pthread_once_t once = PTHREAD_ONCE_INIT;

static void find_anonymous_device(void) {
  int event = eventfd(0, EFD_CLOEXEC | EFD_NONBLOCK);
  anonymous_device = UINT64_MAX - 1;
  if (event < 0) return;
  look(event, &anonymous_device);
  close(event);
}

static int is_anonymous(int fd) {
  pthread_once(&once, find_anonymous_device);
  uint64_t device;
  look(fd, &device);
  return device == anonymous_device;
}

int clinux_is_event(int fd) {
  uint64_t nothing = 0;
  return is_anonymous(fd) && clinux_foreign_write(fd, &nothing, sizeof nothing) == sizeof nothing;
}

int clinux_is_shared_memory(int fd) { return fcntl(fd, F_GET_SEALS) >= 0; }

int clinux_is_unix_stream(int fd) {
  int domain = 0, type = 0, listens = 1;
  socklen_t size = sizeof domain;
  return getsockopt(fd, SOL_SOCKET, SO_DOMAIN, &domain, &size) == 0 && domain == AF_UNIX &&
         getsockopt(fd, SOL_SOCKET, SO_TYPE, &type, &size) == 0 && type == SOCK_STREAM &&
         getsockopt(fd, SOL_SOCKET, SO_ACCEPTCONN, &listens, &size) == 0 && !listens;
}

/* Unnamed sockets have a family and no more. */
struct name {
  struct sockaddr_un address;
  socklen_t length;
};

static int is_same(const struct name *a, const struct name *b) {
  return a->length > sizeof(sa_family_t) && a->length == b->length &&
         memcmp(&a->address, &b->address, a->length) == 0;
}

static struct name name_of(int fd, int (*ask)(int, struct sockaddr *, socklen_t *)) {
  struct name name = {.length = sizeof name.address};
  if (ask(fd, (struct sockaddr *)&name.address, &name.length) < 0 ||
      name.length > sizeof name.address)
    name.length = 0;
  return name;
}

static int own_name(int fd, struct sockaddr *address, socklen_t *length) {
  return getsockname(fd, address, length);
}

static int name_of_peer(int fd, struct sockaddr *address, socklen_t *length) {
  return getpeername(fd, address, length);
}

int clinux_is_other_end(int fd, int connection) {
  struct name ours = name_of(connection, own_name), theirs = name_of(connection, name_of_peer);
  struct name own = name_of(fd, own_name), its_peer = name_of(fd, name_of_peer);
  return is_same(&its_peer, &ours) || is_same(&own, &theirs);
}

void clinux_name_socket(int fd) {
  const struct sockaddr_un any = {.sun_family = AF_UNIX};
  (void)!bind(fd, (const struct sockaddr *)&any, sizeof(sa_family_t));
}

int clinux_is_pipe(int fd) {
  uint64_t device;
  return look(fd, &device) == S_IFIFO;
}

/* Sockets may linger, and a Unix one closes the descriptors that nobody has received from it.  The end of
 * a pipe takes its lock, and that of a userfaultfd one of the peer's address space: a peer may hold both
 * for as long as it serves a fault of its own. */
static int closes_at_once(int fd) { return clinux_is_shared_memory(fd) || clinux_is_event(fd); }

/* What waits for the thread that closes; it runs while there is something.  The places are there from the
 * beginning, for a peer must not be able to choose the moment at which there is no memory.  Nothing is
 * taken from peers while more than CLINUX_MOST_WAITING wait; what they had in hand before, a message and
 * connections at most, has room beyond. */
static int waiting[2 * CLINUX_MOST_WAITING];
/* How many are in `waiting`, and how many there and in the hands of the thread. */
static int queued, count;
static int runs;
static pthread_mutex_t lock = PTHREAD_MUTEX_INITIALIZER;

static void *close_waiting(void *unused) {
  (void)unused;
  pthread_mutex_lock(&lock);
  while (queued) {
    int fd = waiting[--queued];
    pthread_mutex_unlock(&lock);
    close(fd);
    pthread_mutex_lock(&lock);
    count--;
  }
  runs = 0;
  pthread_mutex_unlock(&lock);
  return NULL;
}

/* If no thread can be had, all waits until somebody asks again.  With the lock held. */
static void start_closing(void) {
  if (runs || !queued) return;
  pthread_t thread;
  runs = pthread_create(&thread, NULL, close_waiting, NULL) == 0;
  if (runs) pthread_detach(thread);
}

int clinux_foreign_waiting(void) {
  pthread_mutex_lock(&lock);
  start_closing();
  int result = count;
  pthread_mutex_unlock(&lock);
  return result;
}

void clinux_close_elsewhere(int fd) {
  pthread_mutex_lock(&lock);
  int has_room = queued < (int)(sizeof waiting / sizeof *waiting);
  if (has_room) {
    waiting[queued++] = fd;
    count++;
    start_closing();
  }
  pthread_mutex_unlock(&lock);
  if (!has_room) close(fd);
}

void clinux_foreign_close(int fd) {
  if (closes_at_once(fd))
    close(fd);
  else
    clinux_close_elsewhere(fd);
}
