#define _GNU_SOURCE
#include "socket_file.h"

#include <errno.h>
#include <fcntl.h>
#include <linux/sockios.h>
#include <stdio.h>
#include <sys/file.h>
#include <sys/ioctl.h>
#include <sys/stat.h>
#include <unistd.h>

/* Of linux/un.h, whose sockaddr_un is the C library's too. */
#define OPEN_UNIX_FILE (SIOCPROTOPRIVATE + 0)

int clinux_bound_file(int socket, const char *path) {
  int file = ioctl(socket, OPEN_UNIX_FILE);
  if (file >= 0) return file;
  file = open(path, O_PATH | O_NOFOLLOW | O_CLOEXEC);
  if (file < 0) return -errno;
  struct stat status;
  if (fstat(file, &status) == 0 && S_ISSOCK(status.st_mode) && status.st_uid == geteuid() &&
      status.st_nlink == 1)
    return file;
  close(file);
  return -EEXIST;
}

int clinux_change_group(int file, gid_t group) {
  return fchownat(file, "", (uid_t)-1, group, AT_EMPTY_PATH) < 0 ? -errno : 0;
}

/* fchmod(2) refuses such a descriptor; the link in /proc leads to the very file. */
int clinux_change_mode(int file, mode_t mode) {
  char link[32];
  snprintf(link, sizeof link, "/proc/self/fd/%d", file);
  return chmod(link, mode) < 0 ? -errno : 0;
}

int clinux_lock_directory(const char *directory, int milliseconds) {
  enum { pause = 5 };
  int lock = open(directory, O_RDONLY | O_DIRECTORY | O_CLOEXEC);
  if (lock < 0) return -errno;
  for (int waited = 0; flock(lock, LOCK_EX | LOCK_NB) < 0; waited += pause) {
    int error = errno;
    if (error != EINTR && (error != EWOULDBLOCK || waited >= milliseconds)) {
      close(lock);
      return -error;
    }
    usleep(pause * 1000);
  }
  return lock;
}
