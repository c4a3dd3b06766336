/* Questions about one network interface that only ioctl(2) answers.  Names are at most 15 bytes;
 * a longer one is -ENODEV.  Every function returns -errno on failure; -EOPNOTSUPP means that the
 * driver has no answer. */
#pragma once
#include <linux/if_addr.h>
#include <linux/if_ether.h>
#include <linux/net_namespace.h>
#include <linux/netlink.h>
#include <linux/rtnetlink.h>
#include <stdint.h>

/* A socket to ask through; closed by the caller.  It speaks for the network namespace of the
 * calling thread. */
int clinux_interface_socket(void);

/* SIOCSIFFLAGS: sets IFF_UP. */
int clinux_interface_bring_up(int socket, const char *name);

/* ETHTOOL_GDRVINFO: driver and bus address, both NUL-terminated. */
int clinux_interface_driver(int socket, const char *name, char driver[32], char bus[32]);

/* ETHTOOL_GCHANNELS: `rx` and `combined` channels in use, and the most of each. */
struct clinux_channels {
  uint32_t rx, combined, most_rx, most_combined;
};
int clinux_interface_channels(int socket, const char *name, struct clinux_channels *channels);

/* ETHTOOL_GRXFHINDIR: writes at most `most` receive queue numbers of the hash table and returns
 * how many the table has. */
int clinux_interface_hash_table(int socket, const char *name, uint32_t *queues, int most);

/* ETHTOOL_GFLAGS: 1 if VLAN tags are taken out of received frames, else 0. */
int clinux_interface_strips_vlan(int socket, const char *name);

/* ETHTOOL_GSET: `speed` in Mbit/s, UINT32_MAX if it is unknown; `duplex` 0 half, 1 full, 255
 * unknown. */
int clinux_interface_speed(int socket, const char *name, uint32_t *speed, uint8_t *duplex);

/* ETHTOOL_GTXCSUM: 1 if frames are sent with the checksum left to the hardware, else 0. */
int clinux_interface_defers_checksum(int socket, const char *name);

/* ETHTOOL_GTSO: 1 if large TCP packets are left to the interface to cut, else 0. */
int clinux_interface_segments_tcp(int socket, const char *name);

/* ETHTOOL_GPFLAGS: 1 if the driver's own flag of this name is set, else 0; -ENOENT if the driver has
 * none that is called so. */
int clinux_interface_private_flag(int socket, const char *name, const char *flag);

/* A packet socket that receives nothing and keeps interface `index` promiscuous until it is
 * closed. */
int clinux_promiscuous_socket(int index);

/* setns(2): moves the calling thread, and no other, into the network namespace of a descriptor. */
int clinux_enter_network_namespace(int fd);
