// Prints how fast this machine's time-stamp counter runs, in kHz: the one that an emulated guest reads
// too, so that its kernel can be told and has no need to measure.
#include <stdint.h>
#include <stdio.h>
#include <time.h>
#include <unistd.h>
#include <x86intrin.h>

struct reading {
  int64_t nanoseconds;
  uint64_t counter;
};

static int64_t nanoseconds(void) {
  struct timespec time;
  clock_gettime(CLOCK_MONOTONIC_RAW, &time);
  return time.tv_sec * INT64_C(1000000000) + time.tv_nsec;
}

// Of many readings the one that took the least time from one look at the clock to the next: nobody took
// the CPU away in between.
static struct reading read_both(void) {
  struct reading best = {0};
  int64_t shortest = INT64_MAX;
  for (int i = 0; i < 1000; i++) {
    int64_t before = nanoseconds();
    uint64_t counter = __rdtsc();
    int64_t after = nanoseconds();
    if (after - before < shortest) {
      shortest = after - before;
      best = (struct reading){before + shortest / 2, counter};
    }
  }
  return best;
}

int main(void) {
  struct reading begin = read_both();
  usleep(50000);
  struct reading end = read_both();
  double cycles = (double)(end.counter - begin.counter);
  printf("%.0f\n", cycles * 1e6 / (double)(end.nanoseconds - begin.nanoseconds));
}
