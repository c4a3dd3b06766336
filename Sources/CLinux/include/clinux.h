/* What Swift's Glibc module lacks of Linux: UAPI headers, GNU prototypes (declared by hand,
 * since _GNU_SOURCE must not be defined in a header that Swift imports) and thin wrappers of
 * macros and variadic calls.  Wrappers return -errno on failure. */
#pragma once
#include <linux/if_link.h>
#include <linux/if_packet.h>
#include <linux/if_xdp.h>
#include <linux/memfd.h>
#include <linux/virtio_net.h>
#include <linux/virtio_ring.h>
#include <pthread.h>
#include <signal.h>
#include <stddef.h>
#include <stdint.h>
#include <sys/epoll.h>
#include <sys/eventfd.h>
#include <sys/mman.h>
#include <sys/socket.h>
#include <sys/types.h>
#include <sys/un.h>

int memfd_create(const char *name, unsigned flags);
int setns(int fd, int type);
int unshare(int flags);
int accept4(int fd, struct sockaddr *__restrict address, socklen_t *__restrict length, int flags);

/* struct xdp_umem_reg of Linux 6.8 and later; older headers lack the last field. */
struct clinux_umem_registration {
  uint64_t address, length;
  uint32_t chunk_size, headroom, flags, transmit_metadata_length;
};

/* Most descriptors one vhost-user message may carry (VHOST_MEMORY_BASELINE_NREGIONS). */
#define CLINUX_MAX_FDS 8

/* Receives up to `length` bytes and up to CLINUX_MAX_FDS descriptors, all close-on-exec.
 * Returns the bytes, 0 at the end of the stream, or -errno.  -EMSGSIZE, and nothing is taken, if there
 * were more, or more than this process may have now. */
ssize_t clinux_recv_fds(int socket, void *buffer, size_t length, int *fds, int *count, int flags);
/* Sends `length` bytes with `count` descriptors.  Returns the bytes sent or -errno. */
ssize_t clinux_send_fds(int socket, const void *buffer, size_t length, const int *fds, int count,
                        int flags);

/* Shared memory of `length` zeros under a name for people, whose length nobody can change any more.
 * Returns its descriptor (close-on-exec) or -errno. */
int clinux_sealed_memory(const char *name, size_t length);

/* Maps `length` bytes of shared memory, which are mapped at `source`, at `target` too, in place of
 * what is there.  Both are page aligned.  Returns 0 or -errno. */
int clinux_map_again(void *target, void *source, size_t length);

/* The CPU that the calling thread runs on now. */
int clinux_current_cpu(void);

/* Names the calling thread (at most 15 bytes) and, if cpu >= 0, binds it.  0 or -errno. */
int clinux_name_thread(const char *name);
int clinux_pin_thread(int cpu);
/* CPUs that the calling thread may run on; writes at most `most` numbers, returns the count. */
int clinux_allowed_cpus(int *cpus, int most);
/* Peer process of a connected Unix socket, or -errno. */
int clinux_peer_pid(int socket);
/* Its user id, or -errno. */
int64_t clinux_peer_user(int socket);
/* A descriptor, non-blocking and close-on-exec, of the signals in the set; or -errno. */
int clinux_signal_descriptor(const sigset_t *set);
/* The number of the next signal that waits there; 0 if there is none. */
int clinux_next_signal(int fd);
/* A datagram socket, close-on-exec, that is connected to a Unix socket: to a file, or, with "@" in
 * front, to an abstract name.  Or -errno. */
int clinux_connect_datagram(const char *path);
int clinux_ioctl(int fd, unsigned long request, void *argument);
/* The first two numbers of the running kernel's release: major << 16 | minor. */
int clinux_kernel_release(void);

/* Waits until a descriptor of an epoll set is ready, or for so long; < 0: without end.  The events
 * are taken and forgotten. */
void clinux_epoll_wait(int epoll, int64_t nanoseconds);
