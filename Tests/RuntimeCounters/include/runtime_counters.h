/* Counts what the Swift runtime and malloc do behind our back, so that "this batch retains,
 * releases and allocates nothing" can be a test.
 *
 * Functions of the runtime (and malloc, but not under a sanitizer, which does that itself) are
 * interposed: the test executable defines them and passes the call on.  The hooks that the runtime
 * has for instruments are no use: in 6.3 the hooked swift_retain masks the pointer before its test
 * for immediate values, and crashes on the first small string.  What the runtime's own code calls
 * inside the runtime (the elements of a destroyed array) is not seen; what our code calls is.
 *
 * Only an optimised build tells anything: `swift test -c release --filter <Tests>`.  Tests of
 * numbers therefore ask for runtime_counters_optimised() first.
 */
#pragma once
#include <stdbool.h>
#include <stdint.h>

typedef struct {
  uint64_t retains;
  uint64_t releases;
  /* Objects, by swift_allocObject. */
  uint64_t objects;
  /* Exclusivity checks, by swift_beginAccess. */
  uint64_t accesses;
  /* malloc, calloc, realloc, aligned_alloc, posix_memalign; objects included. */
  uint64_t mallocs;
} RuntimeCounts;

/* Sets the counts to 0 and counts what the calling thread does until runtime_counters_stop. */
void runtime_counters_start(void);
/* The same for all threads of the process; disturbed by tests that run at the same time. */
void runtime_counters_start_all_threads(void);
/* Ends what this thread started and returns the counts. */
RuntimeCounts runtime_counters_stop(void);
/* The counts so far. */
RuntimeCounts runtime_counters_read(void);
/* Whether `mallocs` is counted in this build. */
bool runtime_counters_count_malloc(void);
/* Whether this build is optimised. */
bool runtime_counters_optimised(void);
