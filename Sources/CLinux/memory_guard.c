/* What happens when a front-end takes guest memory away that is mapped here.
 *
 * The file belongs to the front-end, which may cut it at any time; whatever was checked before, the
 * next access is then a SIGBUS in the data path.  The handler puts zeros of our own in place of the
 * rest of that region, raises the alarm of its connection and returns: whoever was in the middle of
 * something finishes it in memory that nobody else sees, and the control thread ends the connection.
 *
 * The handler runs anywhere, so it takes no lock: a slot is read as start, end, page and start
 * again.  One mapping up to the region's end, not one page: a process has only some 65,000
 * mappings, and a guest would have them used up in no time. */
#define _GNU_SOURCE
#include "foreign.h"

#include <errno.h>
#include <pthread.h>
#include <signal.h>
#include <stdatomic.h>
#include <sys/mman.h>

/* Two full memory tables, while one replaces the other, fit. */
#define SLOTS 2048

static struct {
  _Atomic uintptr_t start;
  _Atomic uintptr_t end;
  _Atomic uintptr_t page;
  struct clinux_alarm *_Atomic alarm;
} slots[SLOTS];

static pthread_mutex_t lock = PTHREAD_MUTEX_INITIALIZER;
static pthread_once_t once = PTHREAD_ONCE_INIT;
static struct sigaction former;

static int put_zeros(uintptr_t from, size_t length) {
  return mmap((void *)from, length, PROT_READ | PROT_WRITE,
              MAP_PRIVATE | MAP_ANONYMOUS | MAP_NORESERVE | MAP_FIXED, -1, 0) != MAP_FAILED;
}

/* The alarm lives as long as the range is guarded, and the range as long as somebody may touch it. */
static int replaced(uintptr_t address) {
  for (int i = 0; i < SLOTS; i++) {
    uintptr_t start = atomic_load(&slots[i].start);
    uintptr_t end = atomic_load(&slots[i].end);
    uintptr_t page = atomic_load(&slots[i].page);
    struct clinux_alarm *alarm = atomic_load(&slots[i].alarm);
    if (!start || address < start || address >= end) continue;
    if (atomic_load(&slots[i].start) != start) continue;
    uintptr_t from = address - (address - start) % page;
    /* Where memory must not be overcommitted, a page is had that a whole guest is not. */
    if (!put_zeros(from, end - from) && !put_zeros(from, page)) return 0;
    if (alarm) clinux_raise_alarm(alarm, CLINUX_ALARM_MEMORY);
    return 1;
  }
  return 0;
}

static void on_bus_error(int signal, siginfo_t *info, void *context) {
  (void)context;
  int error = errno;
  int is_ours = info->si_code > 0 && replaced((uintptr_t)info->si_addr);
  errno = error;
  if (is_ours) return;
  /* Not ours: as if we had never been here.  A fault repeats itself, a sent signal does not. */
  sigaction(SIGBUS, &former, 0);
  if (info->si_code <= 0) raise(signal);
}

static void install(void) {
  struct sigaction action = {.sa_sigaction = on_bus_error, .sa_flags = SA_SIGINFO | SA_ONSTACK};
  sigemptyset(&action.sa_mask);
  sigaction(SIGBUS, &action, &former);
}

int clinux_guard_memory(void *base, size_t length, size_t page, struct clinux_alarm *alarm) {
  int result = -ENOMEM;
  pthread_once(&once, install);
  pthread_mutex_lock(&lock);
  for (int i = 0; i < SLOTS; i++) {
    if (atomic_load(&slots[i].start)) continue;
    atomic_store(&slots[i].end, (uintptr_t)base + length);
    atomic_store(&slots[i].page, page);
    atomic_store(&slots[i].alarm, alarm);
    atomic_store(&slots[i].start, (uintptr_t)base);
    result = 0;
    break;
  }
  pthread_mutex_unlock(&lock);
  return result;
}

void clinux_unguard_memory(void *base) {
  pthread_mutex_lock(&lock);
  for (int i = 0; i < SLOTS; i++) {
    if (atomic_load(&slots[i].start) != (uintptr_t)base) continue;
    atomic_store(&slots[i].start, 0);
    break;
  }
  pthread_mutex_unlock(&lock);
}
