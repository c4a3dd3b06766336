#include "raw_calls.h"

#include <errno.h>
#include <unistd.h>

long raw_call(long number, long a, long b, long c, long d) {
  long result = syscall(number, a, b, c, d, 0L, 0L);
  return result < 0 ? -errno : result;
}
