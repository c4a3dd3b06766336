#define _GNU_SOURCE
#include "confinement.h"

#include <errno.h>
#include <fcntl.h>
#include <linux/capability.h>
#include <stdint.h>
#include <sys/prctl.h>
#include <sys/syscall.h>
#include <unistd.h>

int clinux_set_no_new_privileges(void) {
  return prctl(PR_SET_NO_NEW_PRIVS, 1, 0, 0, 0) < 0 ? -errno : 0;
}

bool clinux_has_capability(int number) {
  struct __user_cap_header_struct header = {.version = _LINUX_CAPABILITY_VERSION_3};
  struct __user_cap_data_struct sets[_LINUX_CAPABILITY_U32S_3];
  return syscall(SYS_capget, &header, sets) == 0 && sets[number / 32].effective >> number % 32 & 1;
}

int clinux_drop_capabilities(void) {
  if (prctl(PR_CAP_AMBIENT, PR_CAP_AMBIENT_CLEAR_ALL, 0, 0, 0) < 0) return -errno;
  // Takes CAP_SETPCAP, which a service has not; without it no_new_privs serves.
  for (int number = 0; prctl(PR_CAPBSET_READ, number, 0, 0, 0) >= 0; number++)
    prctl(PR_CAPBSET_DROP, number, 0, 0, 0);
  struct __user_cap_header_struct header = {.version = _LINUX_CAPABILITY_VERSION_3};
  struct __user_cap_data_struct none[_LINUX_CAPABILITY_U32S_3] = {{0}};
  return syscall(SYS_capset, &header, none) < 0 ? -errno : 0;
}

/* Of linux/landlock.h, which older distributions have in an older form. */
struct ruleset {
  uint64_t files;
  uint64_t network;
  uint64_t scoped;
};
struct beneath {
  uint64_t allowed;
  int32_t parent;
} __attribute__((packed));

/* Rights over files by version of the interface: 13 in the first, then one more each. */
static uint64_t file_rights(int version) {
  if (version >= 5) return (1u << 16) - 1;
  if (version >= 3) return (1u << 15) - 1;
  return version == 2 ? (1u << 14) - 1 : (1u << 13) - 1;
}

enum { remove_file = 1 << 5, bind_and_connect = 3, abstract_sockets_and_signals = 3 };
enum { create_ruleset = 444, add_rule = 445, restrict_self = 446, path_beneath = 1, get_version = 1 };

int clinux_confine_files(const char *directory) {
  int version = (int)syscall(create_ruleset, NULL, 0, get_version);
  if (version < 0) return -errno;
  struct ruleset rules = {.files = file_rights(version)};
  size_t size = sizeof rules.files;
  if (version >= 4) {
    rules.network = bind_and_connect;
    size += sizeof rules.network;
  }
  if (version >= 6) {
    rules.scoped = abstract_sockets_and_signals;
    size += sizeof rules.scoped;
  }
  int ruleset = (int)syscall(create_ruleset, &rules, size, 0);
  if (ruleset < 0) return -errno;
  int result = 0;
  if (directory) {
    int parent = open(directory, O_PATH | O_CLOEXEC);
    struct beneath rule = {.allowed = remove_file, .parent = parent};
    if (parent < 0 || syscall(add_rule, ruleset, path_beneath, &rule, 0) < 0) result = -errno;
    if (parent >= 0) close(parent);
  }
  if (result == 0 && syscall(restrict_self, ruleset, 0) < 0) result = -errno;
  close(ruleset);
  return result;
}
