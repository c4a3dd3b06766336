#define _GNU_SOURCE
#include "clinux.h"
#include "foreign.h"

#include <errno.h>
#include <fcntl.h>
#include <limits.h>
#include <sched.h>
#include <stdio.h>
#include <string.h>
#include <sys/ioctl.h>
#include <sys/mman.h>
#include <sys/signalfd.h>
#include <sys/syscall.h>
#include <sys/utsname.h>
#include <time.h>
#include <unistd.h>

ssize_t clinux_send_fds(int socket, const void *buffer, size_t length, const int *fds, int count,
                        int flags) {
  union {
    char bytes[CMSG_SPACE(sizeof(int) * CLINUX_MAX_FDS)];
    struct cmsghdr align;
  } control;
  struct iovec io = {(void *)buffer, length};
  struct msghdr message = {.msg_iov = &io, .msg_iovlen = 1};
  if (count < 0 || count > CLINUX_MAX_FDS) return -EINVAL;
  if (count) {
    memset(&control, 0, sizeof control);
    message.msg_control = control.bytes;
    message.msg_controllen = CMSG_SPACE(sizeof(int) * count);
    struct cmsghdr *c = CMSG_FIRSTHDR(&message);
    c->cmsg_level = SOL_SOCKET;
    c->cmsg_type = SCM_RIGHTS;
    c->cmsg_len = CMSG_LEN(sizeof(int) * count);
    memcpy(CMSG_DATA(c), fds, sizeof(int) * count);
  }
  ssize_t sent;
  do
    sent = sendmsg(socket, &message, flags | MSG_NOSIGNAL);
  while (sent < 0 && errno == EINTR);
  return sent < 0 ? -errno : sent;
}

int clinux_name_thread(const char *name) {
  char cut[16] = {0};
  strncpy(cut, name, sizeof cut - 1);
  return -pthread_setname_np(pthread_self(), cut);
}

int clinux_pin_thread(int cpu) {
  if (cpu < 0 || cpu >= CPU_SETSIZE) return -EINVAL;
  cpu_set_t set;
  CPU_ZERO(&set);
  CPU_SET(cpu, &set);
  return sched_setaffinity(0, sizeof set, &set) < 0 ? -errno : 0;
}

int clinux_current_cpu(void) { return sched_getcpu(); }

int clinux_allowed_cpus(int *cpus, int most) {
  cpu_set_t set;
  if (sched_getaffinity(0, sizeof set, &set) < 0) return -errno;
  int n = 0;
  for (int cpu = 0; cpu < CPU_SETSIZE && n < most; cpu++)
    if (CPU_ISSET(cpu, &set)) cpus[n++] = cpu;
  return n;
}

int clinux_peer_pid(int socket) {
  struct ucred peer;
  socklen_t length = sizeof peer;
  if (getsockopt(socket, SOL_SOCKET, SO_PEERCRED, &peer, &length) < 0) return -errno;
  return peer.pid;
}

int64_t clinux_peer_user(int socket) {
  struct ucred peer;
  socklen_t length = sizeof peer;
  if (getsockopt(socket, SOL_SOCKET, SO_PEERCRED, &peer, &length) < 0) return -errno;
  return peer.uid;
}

int clinux_signal_descriptor(const sigset_t *set) {
  int fd = signalfd(-1, set, SFD_NONBLOCK | SFD_CLOEXEC);
  return fd < 0 ? -errno : fd;
}

int clinux_next_signal(int fd) {
  struct signalfd_siginfo signal;
  return read(fd, &signal, sizeof signal) == sizeof signal ? (int)signal.ssi_signo : 0;
}

int clinux_connect_datagram(const char *path) {
  struct sockaddr_un address = {.sun_family = AF_UNIX};
  size_t length = strlen(path);
  if (length >= sizeof address.sun_path) return -ENAMETOOLONG;
  memcpy(address.sun_path, path, length);
  if (path[0] == '@') address.sun_path[0] = 0;
  int fd = socket(AF_UNIX, SOCK_DGRAM | SOCK_CLOEXEC, 0);
  if (fd < 0) return -errno;
  socklen_t size = (socklen_t)(offsetof(struct sockaddr_un, sun_path) + length);
  if (connect(fd, (struct sockaddr *)&address, size) < 0) {
    int error = errno;
    close(fd);
    return -error;
  }
  return fd;
}

int clinux_ioctl(int fd, unsigned long request, void *argument) {
  int result = ioctl(fd, request, argument);
  return result < 0 ? -errno : result;
}

int clinux_kernel_release(void) {
  struct utsname names;
  int major = 0, minor = 0;
  if (uname(&names) == 0) sscanf(names.release, "%d.%d", &major, &minor);
  return major << 16 | minor;
}

int clinux_sealed_memory(const char *name, size_t length) {
  int fd = memfd_create(name, MFD_CLOEXEC | MFD_ALLOW_SEALING);
  if (fd < 0) return -errno;
  if (ftruncate(fd, (off_t)length) == 0 &&
      fcntl(fd, F_ADD_SEALS, F_SEAL_SHRINK | F_SEAL_GROW | F_SEAL_SEAL) == 0)
    return fd;
  int error = errno;
  close(fd);
  return -error;
}

int clinux_map_again(void *target, void *source, size_t length) {
  /* An old size of 0 leaves the pages where they are too. */
  void *mapped = mremap(source, 0, length, MREMAP_MAYMOVE | MREMAP_FIXED, target);
  return mapped == MAP_FAILED ? -errno : 0;
}

void clinux_epoll_wait(int epoll, int64_t nanoseconds) {
  struct epoll_event events[32];
#ifdef SYS_epoll_pwait2
  struct timespec limit = {nanoseconds / 1000000000, nanoseconds % 1000000000};
  long result =
      syscall(SYS_epoll_pwait2, epoll, events, 32, nanoseconds < 0 ? NULL : &limit, NULL, 0);
  if (result >= 0 || errno != ENOSYS) return;
#endif
  int64_t milliseconds = nanoseconds < 0 ? -1 : (nanoseconds + 999999) / 1000000;
  epoll_wait(epoll, events, 32, milliseconds > INT_MAX ? INT_MAX : (int)milliseconds);
}
