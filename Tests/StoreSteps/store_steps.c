/* The trap flag has the processor raise SIGTRAP after each instruction of this thread; the handler
 * compares the ranges with the state it kept last. */
#include "store_steps.h"

#include <signal.h>
#include <stdint.h>
#include <string.h>

static struct {
  void *ranges[STORE_STEPS_RANGES];
  size_t lengths[STORE_STEPS_RANGES];
  int count;
  size_t bytes;
  uint8_t *states;
  size_t most;
  long taken;
  int overflow;
} steps;
static struct sigaction former;

static void keep(void) {
  if ((size_t)steps.taken == steps.most) {
    steps.overflow = 1;
    return;
  }
  uint8_t *to = steps.states + (size_t)steps.taken * steps.bytes;
  for (int i = 0; i < steps.count; i++) {
    memcpy(to, steps.ranges[i], steps.lengths[i]);
    to += steps.lengths[i];
  }
  steps.taken++;
}

static void on_trap(int signal) {
  (void)signal;
  const uint8_t *last = steps.states + (size_t)(steps.taken - 1) * steps.bytes;
  for (int i = 0; i < steps.count; i++) {
    if (memcmp(last, steps.ranges[i], steps.lengths[i])) {
      keep();
      return;
    }
    last += steps.lengths[i];
  }
}

int store_steps_begin(void *const *ranges, const size_t *lengths, int count, void *states,
                      size_t most) {
#if defined(__x86_64__)
  if (count < 1 || count > STORE_STEPS_RANGES || most < 1) return -1;
  steps.bytes = 0;
  for (int i = 0; i < count; i++) {
    steps.ranges[i] = ranges[i];
    steps.lengths[i] = lengths[i];
    steps.bytes += lengths[i];
  }
  steps.count = count;
  steps.states = states;
  steps.most = most;
  steps.taken = 0;
  steps.overflow = 0;
  keep();
  struct sigaction action = {.sa_handler = on_trap, .sa_flags = SA_RESTART};
  sigemptyset(&action.sa_mask);
  if (sigaction(SIGTRAP, &action, &former)) return -1;
  __asm__ volatile("pushfq\n orq $0x100, (%%rsp)\n popfq" ::: "memory", "cc");
  return 0;
#else
  (void)ranges, (void)lengths, (void)count, (void)states, (void)most;
  return -1;
#endif
}

long store_steps_end(void) {
#if defined(__x86_64__)
  __asm__ volatile("pushfq\n andq $~0x100, (%%rsp)\n popfq" ::: "memory", "cc");
  sigaction(SIGTRAP, &former, 0);
#endif
  return steps.overflow ? -1 : steps.taken;
}
