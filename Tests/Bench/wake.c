// What it takes to wake a thread on another CPU, and to hear from it: the floor under the round trip
// of a back-end that sleeps.
//
//   wake CPU SECONDS PAUSE      the thread that sleeps runs on CPU
//
// A write into an eventfd, which the other thread waits for in epoll, as a kick; that one answers
// with a store, which the first spins for.  The next write is PAUSE microseconds after the answer.
// One line of JSON at the end, as that of bench-driver latency.
#define _GNU_SOURCE
#include <errno.h>
#include <pthread.h>
#include <sched.h>
#include <stdatomic.h>
#include <stdint.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/epoll.h>
#include <sys/eventfd.h>
#include <time.h>
#include <unistd.h>

enum { MOST = 1 << 22 };

static int kick, cpu;
static _Alignas(128) _Atomic uint64_t answered;
static uint32_t trips[MOST];

static uint64_t now(void) {
  struct timespec t;
  clock_gettime(CLOCK_MONOTONIC, &t);
  return (uint64_t)t.tv_sec * 1000000000u + (uint64_t)t.tv_nsec;
}

static void die(const char *what) {
  fprintf(stderr, "wake: %s: %s\n", what, strerror(errno));
  exit(1);
}

static void *sleeper(void *unused) {
  (void)unused;
  cpu_set_t set;
  CPU_ZERO(&set);
  CPU_SET(cpu, &set);
  if (sched_setaffinity(0, sizeof set, &set)) die("sched_setaffinity");
  int epoll = epoll_create1(0);
  struct epoll_event event = {.events = EPOLLIN | EPOLLET};
  if (epoll < 0 || epoll_ctl(epoll, EPOLL_CTL_ADD, kick, &event)) die("epoll");
  atomic_store(&answered, 1);
  for (;;)
    if (epoll_wait(epoll, &event, 1, -1) > 0) atomic_fetch_add(&answered, 1);
  return NULL;
}

static int ascending(const void *a, const void *b) {
  uint32_t x = *(const uint32_t *)a, y = *(const uint32_t *)b;
  return (x > y) - (x < y);
}

int main(int count, char **arguments) {
  if (count != 4) {
    fprintf(stderr, "usage: wake CPU SECONDS PAUSE\n");
    return 64;
  }
  cpu = atoi(arguments[1]);
  kick = eventfd(0, EFD_NONBLOCK);
  pthread_t thread;
  if (kick < 0 || pthread_create(&thread, NULL, sleeper, NULL)) die("thread");
  while (!atomic_load(&answered)) sched_yield();
  uint64_t gap = (uint64_t)(atof(arguments[3]) * 1e3);
  uint64_t end = now() + (uint64_t)(atof(arguments[2]) * 1e9), one = 1;
  size_t n = 0;
  while (n < MOST && now() < end) {
    uint64_t pause = now() + gap;
    while (now() < pause) {
    }
    uint64_t seen = atomic_load(&answered), start = now();
    if (write(kick, &one, sizeof one) != sizeof one) die("write");
    while (atomic_load_explicit(&answered, memory_order_acquire) == seen) {
    }
    trips[n++] = (uint32_t)(now() - start);
  }
  if (!n) return 1;
  qsort(trips, n, sizeof trips[0], ascending);
  printf("{\"samples\": %zu, \"p50_ns\": %u, \"p90_ns\": %u, \"p99_ns\": %u, \"p999_ns\": %u, "
         "\"max_ns\": %u}\n",
         n, trips[n / 2], trips[n * 9 / 10], trips[n * 99 / 100], trips[n * 999 / 1000],
         trips[n - 1]);
  return 0;
}
