/* Giving up what a process may do.  All of it holds for the calling thread and for the threads that
 * it starts afterwards: to be called while it is the only one.  0 or -errno. */
#pragma once

#include <stdbool.h>

/* Whether the calling thread has a capability, by its number in linux/capability.h. */
bool clinux_has_capability(int number);

/* No program that is executed from now on gains a privilege (prctl(2), PR_SET_NO_NEW_PRIVS). */
int clinux_set_no_new_privileges(void);
/* Empties every set of capabilities: effective, permitted, inheritable, ambient, and the bounding
 * set where that is allowed (capabilities(7)). */
int clinux_drop_capabilities(void);
/* No file can be opened, made or changed any more by its name, and no TCP socket be used (landlock(7));
 * but files may be removed from `directory`, if it is not NULL.  -ENOSYS or -EOPNOTSUPP if the kernel
 * has no Landlock. */
int clinux_confine_files(const char *directory);
