/* Descriptors and memory that a peer handed to us, and how it is told that it abuses them. */
#pragma once
#include <stddef.h>
#include <stdint.h>
#include <sys/types.h>

/* What a peer has done behind our back.  It is told from where nothing may wait or allocate: a
 * signal handler, the data path. */
struct clinux_alarm {
  /* CLINUX_ALARM_… */
  uint32_t reasons;
  /* An eventfd of ours that is written when a reason is added; -1: none. */
  int event;
};

/* Memory that it shares with us is gone. */
#define CLINUX_ALARM_MEMORY 1u
/* A descriptor to be written to as an event did not take it, and did not say so at once. */
#define CLINUX_ALARM_BLOCKED 2u
/* A page of memory that it serves faults of has not come for too long. */
#define CLINUX_ALARM_PAGES 4u

void clinux_raise_alarm(struct clinux_alarm *alarm, uint32_t reason);

static inline uint32_t clinux_alarm_reasons(const struct clinux_alarm *alarm) {
  return __atomic_load_n(&alarm->reasons, __ATOMIC_RELAXED);
}

/* From now on a bus error in this range of shared memory, which its owner has cut, puts zeros in
 * place of the rest of the range and raises the alarm, if there is one.  `page` is the page size of
 * the mapping.  To be ended before the range is unmapped and the alarm freed.
 * Returns 0, or -ENOMEM if there are too many ranges. */
int clinux_guard_memory(void *base, size_t length, size_t page, struct clinux_alarm *alarm);
void clinux_unguard_memory(void *base);

/* read(2) and write(2) on a peer's descriptor.  Whatever its flags are at this moment, a call that
 * waits is broken off within CLINUX_FOREIGN_WAIT_MS and a little: the result is -EINTR then.  Other
 * results are those of the call, or -errno; -EAGAIN also where there is no timer to break it off. */
#define CLINUX_FOREIGN_WAIT_MS 200
ssize_t clinux_foreign_read(int fd, void *bytes, size_t count);
ssize_t clinux_foreign_write(int fd, const void *bytes, size_t count);
/* Adds one to a peer's eventfd.  One that is full is the peer's loss; one that keeps us waiting
 * raises the alarm, after which nothing is written any more. */
void clinux_foreign_signal(int fd, struct clinux_alarm *alarm);

/* What kind of descriptor it is.  These never wait, whatever file it is; 1 or 0. */
int clinux_is_event(int fd);
int clinux_is_shared_memory(int fd);
int clinux_is_unix_stream(int fd);
int clinux_is_pipe(int fd);

/* Whether a Unix socket is the other end of a connection, or was made as that was: by the same listener.
 * The kernel tells it by their names alone, so one of the two ends must have one: of a connection by
 * a listener one has.  1 or 0. */
int clinux_is_other_end(int fd, int connection);
/* Gives a Unix socket a name that no other one has, unless it has one. */
void clinux_name_socket(int fd);

/* Closes a peer's descriptor.  What may wait when it is closed, such as a file of a file system in
 * user space, is closed by a thread of its own. */
void clinux_foreign_close(int fd);
/* The same, without a look at what it is. */
void clinux_close_elsewhere(int fd);
/* How many of them have not been closed yet; more than CLINUX_MOST_WAITING is an attack. */
int clinux_foreign_waiting(void);
enum { CLINUX_MOST_WAITING = 256 };
/* Bytes out of band come in their place, with the descriptors that came with them.  To be said before
 * anything is received. */
void clinux_receive_in_line(int socket);
/* Hangs up on the peer of a connected Unix stream socket, at once, and closes it, with what the peer has
 * sent and nobody has received: that may be descriptors, whose end takes as long as the peer likes. */
void clinux_hang_up(int fd);
