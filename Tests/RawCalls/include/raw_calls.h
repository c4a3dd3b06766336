/* System calls by number, past the C library. */
#pragma once
#include <sys/syscall.h>

/* What the kernel returns, or -errno. */
long raw_call(long number, long a, long b, long c, long d);
