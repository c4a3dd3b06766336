#define _GNU_SOURCE
#include "interface.h"

#include <errno.h>
#include <linux/ethtool.h>
#include <linux/if_packet.h>
#include <linux/sockios.h>
#include <net/if.h>
#include <sched.h>
#include <stdlib.h>
#include <string.h>
#include <sys/ioctl.h>
#include <sys/socket.h>
#include <unistd.h>

int clinux_interface_socket(void) {
  int fd = socket(AF_UNIX, SOCK_DGRAM | SOCK_CLOEXEC, 0);
  return fd < 0 ? -errno : fd;
}

static int fill_name(struct ifreq *request, const char *name) {
  memset(request, 0, sizeof *request);
  if (strlen(name) >= sizeof request->ifr_name) return -ENODEV;
  strcpy(request->ifr_name, name);
  return 0;
}

static int ethtool(int socket, const char *name, void *command) {
  struct ifreq request;
  int result = fill_name(&request, name);
  if (result < 0) return result;
  request.ifr_data = command;
  return ioctl(socket, SIOCETHTOOL, &request) < 0 ? -errno : 0;
}

int clinux_interface_bring_up(int socket, const char *name) {
  struct ifreq request;
  int result = fill_name(&request, name);
  if (result < 0) return result;
  if (ioctl(socket, SIOCGIFFLAGS, &request) < 0) return -errno;
  request.ifr_flags |= IFF_UP;
  return ioctl(socket, SIOCSIFFLAGS, &request) < 0 ? -errno : 0;
}

int clinux_interface_driver(int socket, const char *name, char driver[32], char bus[32]) {
  struct ethtool_drvinfo info = {.cmd = ETHTOOL_GDRVINFO};
  int result = ethtool(socket, name, &info);
  if (result < 0) return result;
  memcpy(driver, info.driver, 32);
  memcpy(bus, info.bus_info, 32);
  driver[31] = bus[31] = 0;
  return 0;
}

int clinux_interface_channels(int socket, const char *name, struct clinux_channels *channels) {
  struct ethtool_channels command = {.cmd = ETHTOOL_GCHANNELS};
  int result = ethtool(socket, name, &command);
  if (result < 0) return result;
  channels->rx = command.rx_count;
  channels->combined = command.combined_count;
  channels->most_rx = command.max_rx;
  channels->most_combined = command.max_combined;
  return 0;
}

int clinux_interface_hash_table(int socket, const char *name, uint32_t *queues, int most) {
  /* Asked with size 0, the kernel tells the size of the table. */
  struct ethtool_rxfh_indir size = {.cmd = ETHTOOL_GRXFHINDIR};
  int result = ethtool(socket, name, &size);
  if (result < 0) return result;
  if (size.size > 1 << 16) return -EOVERFLOW;
  size_t bytes = size.size * sizeof(uint32_t);
  struct ethtool_rxfh_indir *table = calloc(1, sizeof *table + bytes);
  if (!table) return -ENOMEM;
  table->cmd = ETHTOOL_GRXFHINDIR;
  table->size = size.size;
  result = ethtool(socket, name, table);
  if (result == 0) {
    result = (int)size.size;
    for (int i = 0; i < result && i < most; i++) queues[i] = table->ring_index[i];
  }
  free(table);
  return result;
}

static int ethtool_value(int socket, const char *name, uint32_t command, uint32_t *value) {
  struct ethtool_value question = {.cmd = command};
  int result = ethtool(socket, name, &question);
  *value = question.data;
  return result;
}

int clinux_interface_strips_vlan(int socket, const char *name) {
  uint32_t flags;
  int result = ethtool_value(socket, name, ETHTOOL_GFLAGS, &flags);
  return result < 0 ? result : (flags & ETH_FLAG_RXVLAN) != 0;
}

int clinux_interface_speed(int socket, const char *name, uint32_t *speed, uint8_t *duplex) {
  struct ethtool_cmd settings = {.cmd = ETHTOOL_GSET};
  int result = ethtool(socket, name, &settings);
  *speed = ethtool_cmd_speed(&settings);
  *duplex = settings.duplex;
  return result;
}

int clinux_interface_defers_checksum(int socket, const char *name) {
  uint32_t on;
  int result = ethtool_value(socket, name, ETHTOOL_GTXCSUM, &on);
  return result < 0 ? result : on != 0;
}

int clinux_interface_segments_tcp(int socket, const char *name) {
  uint32_t on;
  int result = ethtool_value(socket, name, ETHTOOL_GTSO, &on);
  return result < 0 ? result : on != 0;
}

int clinux_interface_private_flag(int socket, const char *name, const char *flag) {
  struct ethtool_drvinfo info = {.cmd = ETHTOOL_GDRVINFO};
  int result = ethtool(socket, name, &info);
  if (result < 0) return result;
  /* The flags are the bits of one word. */
  unsigned count = info.n_priv_flags < 32 ? info.n_priv_flags : 32;
  struct ethtool_gstrings *names = calloc(1, sizeof *names + 32 * ETH_GSTRING_LEN);
  if (!names) return -ENOMEM;
  *names = (struct ethtool_gstrings){
      .cmd = ETHTOOL_GSTRINGS, .string_set = ETH_SS_PRIV_FLAGS, .len = count};
  uint32_t bits = 0;
  if (count > 0) result = ethtool(socket, name, names);
  if (result == 0 && count > 0) result = ethtool_value(socket, name, ETHTOOL_GPFLAGS, &bits);
  if (result == 0) result = -ENOENT;
  for (unsigned i = 0; result == -ENOENT && i < count; i++) {
    if (strncmp((char *)names->data + i * ETH_GSTRING_LEN, flag, ETH_GSTRING_LEN) == 0)
      result = bits >> i & 1;
  }
  free(names);
  return result;
}

int clinux_promiscuous_socket(int index) {
  /* Protocol 0: the socket gets no frames, so it costs the receive path nothing. */
  int fd = socket(AF_PACKET, SOCK_RAW | SOCK_CLOEXEC, 0);
  if (fd < 0) return -errno;
  struct packet_mreq membership = {.mr_ifindex = index, .mr_type = PACKET_MR_PROMISC};
  if (setsockopt(fd, SOL_PACKET, PACKET_ADD_MEMBERSHIP, &membership, sizeof membership) < 0) {
    int code = errno;
    close(fd);
    return -code;
  }
  return fd;
}

int clinux_enter_network_namespace(int fd) {
  return setns(fd, CLONE_NEWNET) < 0 ? -errno : 0;
}
