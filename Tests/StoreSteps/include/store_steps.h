/* Runs code one machine instruction at a time, and keeps what a range of memory looked like after
 * every store to it: all the states in which a process that is killed there can leave the range.
 *
 * x86-64 only (the trap flag).  One thread of the process at a time. */
#pragma once
#include <stddef.h>

/* Most ranges that are watched together. */
#define STORE_STEPS_RANGES 4

/* From now on the calling thread is traced.  `states` holds up to `most` states of all ranges
 * together, one behind the other; the first is the state now.  0, or -1 if this machine or the
 * arguments will not do. */
int store_steps_begin(void *const *ranges, const size_t *lengths, int count, void *states,
                      size_t most);
/* Ends it and returns how many states there are; -1 if there were more than would fit. */
long store_steps_end(void);
