/* Receiving from a peer's socket, and its end.
 *
 * A descriptor that the kernel drops is closed in the thread that made the call, and where nobody else has
 * it, that takes as long as the file likes: a TCP socket lingers, a file system in user space may never
 * answer.  The kernel drops those for which there is no room, or no number left, and those that came with
 * bytes which are skipped.
 *
 * So what has come is looked at first (MSG_PEEK), which gives us descriptors of our own of all that came
 * with it.  To take it from the queue afterwards, or to leave it there, drops no last one.  Bytes out of
 * band, which are skipped with what came with them, are put in their place in the stream.
 *
 * A look goes beyond the bytes that were asked for, up to the first ones with descriptors.  Whose they are
 * is told when the bytes are taken, without room for any: MSG_CTRUNC says that some were among them. */
#define _GNU_SOURCE
#include "clinux.h"
#include "foreign.h"

#include <errno.h>
#include <string.h>
#include <unistd.h>

/* SCM_MAX_FD: more come with no message. */
#define MOST_SENT 253

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

/* Removes exactly so many bytes: what is behind them may have descriptors too.
 * Returns whether they had, or -errno. */
static int consume(int socket, char *bytes, size_t count) {
  int flags = 0;
  for (size_t done = 0; done < count;) {
    struct iovec io = {bytes + done, count - done};
    struct msghdr message = {.msg_iov = &io, .msg_iovlen = 1};
    ssize_t received = receive(socket, &message, MSG_DONTWAIT);
    if (received <= 0) return received < 0 ? (int)received : -EIO;
    flags |= message.msg_flags;
    done += (size_t)received;
  }
  return (flags & MSG_CTRUNC) != 0;
}

/* Puts at most CLINUX_MAX_FDS of the message's descriptors into `fds`, and closes the others.
 * Returns how many there were. */
static size_t take(struct msghdr *message, int *fds, int *count) {
  size_t all = 0;
  for (struct cmsghdr *c = CMSG_FIRSTHDR(message); c; c = CMSG_NXTHDR(message, c)) {
    if (c->cmsg_level != SOL_SOCKET || c->cmsg_type != SCM_RIGHTS) continue;
    size_t n = (c->cmsg_len - CMSG_LEN(0)) / sizeof(int);
    for (size_t i = 0; i < n; i++, all++) {
      int fd;
      memcpy(&fd, CMSG_DATA(c) + i * sizeof fd, sizeof fd);
      if (*count < CLINUX_MAX_FDS)
        fds[(*count)++] = fd;
      else
        clinux_foreign_close(fd);
    }
  }
  return all;
}

ssize_t clinux_recv_fds(int socket, void *buffer, size_t length, int *fds, int *count, int flags) {
  union {
    char bytes[CMSG_SPACE(sizeof(int) * MOST_SENT)];
    struct cmsghdr align;
  } control;
  struct iovec io = {buffer, length};
  struct msghdr message = {.msg_iov = &io, .msg_iovlen = 1, .msg_control = control.bytes};
  /* While too many wait to be closed none are taken; if there are any, it is told. */
  if (clinux_foreign_waiting() <= CLINUX_MOST_WAITING)
    message.msg_controllen = sizeof control.bytes;
  *count = 0;
  ssize_t seen = receive(socket, &message, flags | MSG_PEEK);
  if (seen <= 0) return seen;
  /* Too many: all stays where it is, and ends with the connection. */
  int are_ours = take(&message, fds, count) > CLINUX_MAX_FDS || message.msg_flags & MSG_CTRUNC
                     ? -EMSGSIZE
                     : consume(socket, buffer, (size_t)seen);
  if (are_ours <= 0)
    while (*count) clinux_foreign_close(fds[--*count]);
  return are_ours < 0 ? are_ours : seen;
}

void clinux_hang_up(int fd) {
  char byte;
  clinux_receive_in_line(fd);
  /* Nothing is added to the queue from here on. */
  shutdown(fd, SHUT_RDWR);
  if (recv(fd, &byte, sizeof byte, MSG_PEEK | MSG_DONTWAIT) > 0)
    clinux_close_elsewhere(fd);
  else
    close(fd);
}
