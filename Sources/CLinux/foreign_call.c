/* Calls on a peer's descriptors that must not keep us.
 *
 * O_NONBLOCK belongs to the open file, which the peer shares: it may clear the flag at any time, also
 * between a look at it and the write, and poll(2) before the write has the same gap.  RWF_NOWAIT is
 * nothing that an eventfd knows.  What ends a wait in any case is a signal.  So each thread that calls
 * has a timer of its own that interrupts it, by a signal that does nothing else and does not restart
 * the call.
 *
 * An honest peer never sees it: for signals, which the data path sends, the timer is armed by the first
 * one, is silent while none follows (the handler that finds the thread elsewhere stops it), and costs
 * a call two stores and a load.
 *
 * `inside` is set before the timer is looked at: the handler stops the timer only if it is not set,
 * so a call that begins now either finds the timer stopped and arms it, or leaves it running. */
#define _GNU_SOURCE
#include "foreign.h"

#include <errno.h>
#include <poll.h>
#include <pthread.h>
#include <signal.h>
#include <stdatomic.h>
#include <time.h>
#include <unistd.h>

/* Ignored by default, and used by nothing else here. */
#define TICK SIGURG

static _Thread_local struct {
  timer_t timer;
  volatile sig_atomic_t exists;
  volatile sig_atomic_t armed;
  volatile sig_atomic_t inside;
} watch;

static pthread_once_t once = PTHREAD_ONCE_INIT;
static pthread_key_t at_thread_end;

static int set(long nanoseconds) {
  struct itimerspec time = {{0, nanoseconds}, {0, nanoseconds}};
  return timer_settime(watch.timer, 0, &time, NULL);
}

static void on_tick(int signal) {
  (void)signal;
  if (watch.inside || !watch.armed) return;
  int error = errno;
  set(0);
  watch.armed = 0;
  errno = error;
}

static void delete_timer(void *unused) {
  (void)unused;
  timer_delete(watch.timer);
  watch.exists = watch.armed = 0;
}

static void install(void) {
  /* No SA_RESTART: that is the point. */
  struct sigaction action = {.sa_handler = on_tick};
  sigemptyset(&action.sa_mask);
  sigaction(TICK, &action, NULL);
  pthread_key_create(&at_thread_end, delete_timer);
}

static void arm(void) {
  if (!watch.exists) {
    pthread_once(&once, install);
    struct sigevent event = {.sigev_notify = SIGEV_THREAD_ID, .sigev_signo = TICK};
    event._sigev_un._tid = gettid();
    if (timer_create(CLOCK_MONOTONIC, &event, &watch.timer) < 0) return;
    pthread_setspecific(at_thread_end, &watch);
    /* Whoever made this thread, or this process, may have blocked it. */
    sigset_t tick;
    sigemptyset(&tick);
    sigaddset(&tick, TICK);
    pthread_sigmask(SIG_UNBLOCK, &tick, NULL);
    watch.exists = 1;
  }
  if (set(CLINUX_FOREIGN_WAIT_MS * 1000000L) == 0) watch.armed = 1;
}

/* Whether a timer is there.  There is none when this user has no more signals to queue
 * (RLIMIT_SIGPENDING). */
static int enter(void) {
  watch.inside = 1;
  atomic_signal_fence(memory_order_seq_cst);
  if (!watch.armed) arm();
  return watch.armed;
}

static ssize_t leave(ssize_t result) {
  ssize_t answer = result < 0 ? -errno : result;
  watch.inside = 0;
  return answer;
}

static ssize_t refuse(void) {
  errno = EAGAIN;
  return leave(-1);
}

/* At once, since calls of the control path are rare: a timer that still runs would interrupt whatever
 * this thread calls next. */
static ssize_t disarm(ssize_t result) {
  if (watch.armed) {
    watch.armed = 0;
    set(0);
  }
  return result;
}

ssize_t clinux_foreign_read(int fd, void *bytes, size_t count) {
  return enter() ? disarm(leave(read(fd, bytes, count))) : refuse();
}

ssize_t clinux_foreign_write(int fd, const void *bytes, size_t count) {
  return enter() ? disarm(leave(write(fd, bytes, count))) : refuse();
}

/* Without a timer: a guest that behaves gets its calls, and the other has the gap to hit. */
static int takes_event(int fd) {
  struct pollfd event = {.fd = fd, .events = POLLOUT};
  return poll(&event, 1, 0) == 1 && event.revents & POLLOUT;
}

void clinux_foreign_signal(int fd, struct clinux_alarm *alarm) {
  if (clinux_alarm_reasons(alarm) & CLINUX_ALARM_BLOCKED) return;
  uint64_t one = 1;
  ssize_t result = enter() || takes_event(fd) ? leave(write(fd, &one, sizeof one)) : refuse();
  if (result == -EINTR) clinux_raise_alarm(alarm, CLINUX_ALARM_BLOCKED);
}

void clinux_raise_alarm(struct clinux_alarm *alarm, uint32_t reason) {
  int error = errno;
  uint64_t one = 1;
  __atomic_fetch_or(&alarm->reasons, reason, __ATOMIC_RELEASE);
  /* It is full, then, or there is none: the reason is found a little later. */
  if (alarm->event >= 0 && write(alarm->event, &one, sizeof one) < 0) errno = error;
}
