#define _GNU_SOURCE
#include "userfault.h"

#include <errno.h>
#include <fcntl.h>
#include <linux/userfaultfd.h>
#include <poll.h>
#include <sys/ioctl.h>
#include <sys/mman.h>
#include <sys/syscall.h>
#include <unistd.h>

int clinux_userfault_open(void) {
  int fd = (int)syscall(SYS_userfaultfd, O_CLOEXEC | O_NONBLOCK | UFFD_USER_MODE_ONLY);
  if (fd < 0) return -errno;
  const __u64 needed = UFFD_FEATURE_MISSING_SHMEM | UFFD_FEATURE_MISSING_HUGETLBFS;
  struct uffdio_api api = {.api = UFFD_API};
  int code = 0;
  if (ioctl(fd, UFFDIO_API, &api) < 0)
    code = -errno;
  else if ((api.features & needed) != needed)
    code = -EOPNOTSUPP;
  if (code == 0) return fd;
  close(fd);
  return code;
}

int clinux_userfault_register(int fd, void *base, size_t length) {
  struct uffdio_register request = {.range = {(__u64)(uintptr_t)base, length},
                                    .mode = UFFDIO_REGISTER_MODE_MISSING};
  /* A huge page made of small ones would hide that some of them are missing.  Kernels without
   * transparent huge pages refuse this, and need it not. */
  madvise(base, length, MADV_NOHUGEPAGE);
  return ioctl(fd, UFFDIO_REGISTER, &request) < 0 ? -errno : 0;
}

int clinux_userfault_unregister(int fd, void *base, size_t length) {
  struct uffdio_range range = {(__u64)(uintptr_t)base, length};
  return ioctl(fd, UFFDIO_UNREGISTER, &range) < 0 ? -errno : 0;
}

int clinux_userfault_abandon(int fd, void *base, size_t length) {
  struct uffdio_range range = {(__u64)(uintptr_t)base, length};
  const int flags = MAP_PRIVATE | MAP_ANONYMOUS | MAP_NORESERVE;
  /* Before Linux 6.12 a mapping that is refused for want of memory leaves a hole at its place: so it is
   * tried elsewhere. */
  void *elsewhere = mmap(NULL, length, PROT_READ | PROT_WRITE, flags, -1, 0);
  if (elsewhere != MAP_FAILED) munmap(elsewhere, length);
  if (elsewhere == MAP_FAILED ||
      mmap(base, length, PROT_READ | PROT_WRITE, flags | MAP_FIXED, -1, 0) == MAP_FAILED)
    return clinux_userfault_unregister(fd, base, length);
  return ioctl(fd, UFFDIO_WAKE, &range) < 0 ? -errno : 0;
}

uint64_t clinux_userfault_read(int fd) {
  struct pollfd poller = {.fd = fd, .events = POLLIN};
  struct uffd_msg message;
  int count;
  do count = poll(&poller, 1, 5000);
  while (count < 0 && errno == EINTR);
  if (count <= 0) return 0;
  if (read(fd, &message, sizeof message) != sizeof message) return 0;
  return message.event == UFFD_EVENT_PAGEFAULT ? message.arg.pagefault.address : 0;
}

int clinux_userfault_wake(int fd, uint64_t address, size_t length) {
  struct uffdio_range range = {address & ~(uint64_t)4095, length};
  return ioctl(fd, UFFDIO_WAKE, &range) < 0 ? -errno : 0;
}
