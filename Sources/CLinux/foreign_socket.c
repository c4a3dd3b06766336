/* Receiving from a peer's socket, and its end.
 *
 * A descriptor that the kernel drops is closed in the thread that made the call, and where nobody else has
 * it, that takes as long as the file likes: a TCP socket lingers, a file system in user space may never
 * answer.  The kernel drops those for which there is no room, or no number left, and those that came with
 * bytes which are skipped.
 *
 * So what has come is looked at first (MSG_PEEK), which gives us second descriptors of all that came with
 * it: what is dropped afterwards, or left in the queue, is not the last.  They are closed again when those
 * are there that the bytes were taken with: a look goes beyond the bytes that were asked for, and the peer
 * may share this very socket, and move what is looked at (SO_PEEK_OFF) or take it itself.  Bytes out of
 * band, which are skipped with what came with them, are put in their place in the stream. */
#define _GNU_SOURCE
#include "clinux.h"
#include "foreign.h"

#include <errno.h>
#include <string.h>
#include <sys/ioctl.h>
#include <unistd.h>

/* SCM_MAX_FD: more come with no message. */
#define MOST_SENT 253
/* Of Linux 6.5: a peer may ask for it where it shares the socket. */
#define PROCESS 4

/* Room for all of them, and for what else the kernel may add. */
union control {
  char bytes[CMSG_SPACE(sizeof(int) * MOST_SENT) + 256];
  struct cmsghdr align;
};

void clinux_receive_in_line(int socket) {
  int one = 1;
  setsockopt(socket, SOL_SOCKET, SO_OOBINLINE, &one, sizeof one);
}

static ssize_t receive(int socket, struct msghdr *message, int flags) {
  ssize_t received;
  do
    received = recvmsg(socket, message, flags | MSG_CMSG_CLOEXEC);
  while (received < 0 && errno == EINTR);
  return received < 0 ? -errno : received;
}

/* Puts at most CLINUX_MAX_FDS of the message's descriptors into `fds`, behind the `*count` that are there,
 * and closes the others.  Returns 0, or -EMSGSIZE if there were others, or more than this process may have. */
static int take(struct msghdr *message, int *fds, int *count) {
  int result = message->msg_flags & MSG_CTRUNC ? -EMSGSIZE : 0;
  for (struct cmsghdr *c = CMSG_FIRSTHDR(message); c; c = CMSG_NXTHDR(message, c)) {
    if (c->cmsg_level != SOL_SOCKET || (c->cmsg_type != SCM_RIGHTS && c->cmsg_type != PROCESS)) continue;
    size_t n = (c->cmsg_len - CMSG_LEN(0)) / sizeof(int);
    for (size_t i = 0; i < n; i++) {
      int fd;
      memcpy(&fd, CMSG_DATA(c) + i * sizeof fd, sizeof fd);
      /* What stands for a process that there is none for. */
      if (fd < 0) continue;
      if (c->cmsg_type == SCM_RIGHTS && *count < CLINUX_MAX_FDS) {
        fds[(*count)++] = fd;
        continue;
      }
      if (c->cmsg_type == PROCESS) {
        close(fd);
        continue;
      }
      clinux_foreign_close(fd);
      result = -EMSGSIZE;
    }
  }
  return result;
}

static void close_all(int *fds, int *count) {
  while (*count) clinux_foreign_close(fds[--*count]);
}

/* Removes exactly so many bytes from the queue, with what came with them. */
static int consume(int socket, char *bytes, size_t length, int *fds, int *count) {
  for (size_t done = 0; done < length;) {
    union control control;
    struct iovec io = {bytes + done, length - done};
    struct msghdr message = {.msg_iov = &io,
                             .msg_iovlen = 1,
                             .msg_control = control.bytes,
                             .msg_controllen = sizeof control.bytes};
    ssize_t received = receive(socket, &message, MSG_DONTWAIT);
    if (received <= 0) return received < 0 ? (int)received : -EIO;
    int result = take(&message, fds, count);
    if (result < 0) return result;
    done += (size_t)received;
  }
  return 0;
}

/* How many bytes wait to be received; -1: it is not connected. */
static int queued(int socket) {
  int bytes;
  return ioctl(socket, FIONREAD, &bytes) < 0 ? -1 : bytes;
}

ssize_t clinux_recv_fds(int socket, void *buffer, size_t length, int *fds, int *count, int flags) {
  int seconds[CLINUX_MAX_FDS], second_count = 0, result;
  ssize_t seen;
  *count = 0;
  /* Where there is something that cannot be seen the peer has moved the place to look at. */
  for (int looks = 0;; looks++) {
    union control control;
    struct iovec io = {buffer, length};
    struct msghdr message = {.msg_iov = &io, .msg_iovlen = 1, .msg_control = control.bytes};
    /* While too many wait to be closed none are taken; if there are any, it is told. */
    if (clinux_foreign_waiting() <= CLINUX_MOST_WAITING)
      message.msg_controllen = sizeof control.bytes;
    seen = receive(socket, &message, flags | MSG_PEEK);
    if (seen == -EAGAIN && queued(socket) > 0) {
      if (looks == 0) continue;
      return -EPROTO;
    }
    if (seen <= 0) return seen;
    result = take(&message, seconds, &second_count);
    break;
  }
  /* Too many: all stays where it is, and ends with the connection. */
  if (result == 0) result = consume(socket, buffer, (size_t)seen, fds, count);
  close_all(seconds, &second_count);
  if (result < 0) close_all(fds, count);
  return result < 0 ? result : seen;
}

void clinux_hang_up(int fd) {
  /* Nothing is added to the queue from here on. */
  shutdown(fd, SHUT_RDWR);
  if (queued(fd) == 0)
    close(fd);
  else
    clinux_close_elsewhere(fd);
}
