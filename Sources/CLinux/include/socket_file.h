/* The file of a Unix socket while it is made, in a directory that may be somebody else's: whoever writes
 * to it can put another file, or a link, in the place of the one that was bound.  So nothing is done by
 * its name.  0, a descriptor or -errno. */
#pragma once

#include <sys/types.h>

/* The file that a socket is bound to, which is at `path`, with O_PATH.  -EEXIST if another one is there
 * by now.  The kernel hands out the file itself to a process with CAP_NET_ADMIN (unix(7), SIOCUNIXFILE);
 * for others it is a socket at `path` that has one name and is their own. */
int clinux_bound_file(int socket, const char *path);
/* Of an O_PATH descriptor.  The mode takes /proc. */
int clinux_change_group(int file, gid_t group);
int clinux_change_mode(int file, mode_t mode);

/* A lock of a directory (flock(2)) that goes with the descriptor.  -EWOULDBLOCK if somebody else has had it
 * for all of that time; other errors if there is none to be had. */
int clinux_lock_directory(const char *directory, int milliseconds);
