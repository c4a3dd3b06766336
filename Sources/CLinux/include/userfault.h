/* userfaultfd(2): faults on pages that are not there yet go to whoever has the descriptor. */
#pragma once
#include <stddef.h>
#include <stdint.h>

/* A descriptor for faults on missing pages of shared memory and huge pages, caused by user code
 * only (which needs no privilege).  Returns it, close-on-exec and non-blocking, or -errno;
 * -EOPNOTSUPP if the kernel cannot do that. */
int clinux_userfault_open(void);
/* From now on a fault on a missing page of the range waits for the descriptor's holder.  The range
 * is whole pages of one shared mapping.  0 or -errno. */
int clinux_userfault_register(int fd, void *base, size_t length);
/* No longer; who waits goes on, with a new page of zeros where there is none.  0 or -errno. */
int clinux_userfault_unregister(int fd, void *base, size_t length);
/* Puts private zeros in place of the range, and lets go on who waits for a page of it.  The file
 * behind the range is not changed; but where there is no room for the zeros (no memory may be
 * overcommitted), the range stays what it is, as after `unregister`.  0 or -errno. */
int clinux_userfault_abandon(int fd, void *base, size_t length);

/* The holder's side, for tests.  The address of the next fault, waited for; 0 if there is none. */
uint64_t clinux_userfault_read(int fd);
/* Lets go on who waits for a page of this range.  0 or -errno. */
int clinux_userfault_wake(int fd, uint64_t address, size_t length);
