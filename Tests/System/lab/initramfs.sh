#!/usr/bin/env bash
# Builds the guest: an initramfs with busybox, iperf3, ethtool (netperf too where it is installed),
# guest/afxdp.c, the few kernel modules that the lab uses, and guest/init, which starts the control
# channel.
#
#   initramfs.sh FOLDER      writes FOLDER/initramfs.cpio.gz for the kernel that artifacts.sh has put
#                            into FOLDER, unless it is newer than its parts
set -euo pipefail

lab=$(dirname "$(readlink -f "${BASH_SOURCE[0]}")")
readonly lab
readonly cache=${1:?usage: initramfs.sh FOLDER}
readonly image=$cache/initramfs.cpio.gz
readonly parts=("$lab/initramfs.sh" "$lab/guest/init" "$lab/guest/agent" "$lab/guest/afxdp.c"
  "$cache/vmlinuz")

# With what they depend on; from Linux 6.12 on Debian has virtio_pci and virtio_console built in.
readonly modules=(virtio_pci virtio_console virtio_net pktgen af_packet)
readonly programs=(iperf3 ethtool netperf)

# shellcheck source=Tests/System/lab/modules.sh
source "$lab/modules.sh"

die() {
  echo "initramfs.sh: $*" >&2
  exit 1
}

main() {
  local part stale=
  for part in "${parts[@]}"; do
    [[ $image -nt $part ]] || stale=yes
  done
  [[ -n $stale ]] || return 0

  tree=$(mktemp -d "$cache/initramfs.XXXXXX")
  trap 'rm -rf "$tree"' EXIT
  mkdir -p "$tree"/{bin,dev,etc,proc,root,run,sys,tmp}
  install -m 755 "$lab/guest/init" "$tree/init"
  install -m 755 "$lab/guest/agent" "$tree/bin/agent"
  add_busybox
  local program
  for program in "${programs[@]}"; do
    add_program "$program"
  done
  # Of one file: the guest has no C library of its own.
  gcc -O2 -Wall -Wextra -Werror -static -o "$tree/bin/afxdp" "$lab/guest/afxdp.c" ||
    die "afxdp does not compile: install gcc and libc6-dev"
  modules_add "$cache/modules" "$tree" "${modules[@]}"
  (cd "$tree" && find . -print0 | cpio --null --create --format=newc --owner=0:0 --quiet) |
    gzip -1 >"$tree.gz"
  mv "$tree.gz" "$image"
}

add_busybox() {
  local busybox
  busybox=$(command -v busybox) || die "busybox is missing: install busybox-static"
  ! ldd "$busybox" >/dev/null 2>&1 || die "$busybox is not static: install busybox-static"
  cp "$busybox" "$tree/bin/busybox"
  # The applets get their links in the guest, at boot; /bin/sh is needed to get there.
  ln -s busybox "$tree/bin/sh"
}

# add_program NAME: the program and the libraries that it is linked with, at the same paths.
add_program() {
  local path library
  path=$(command -v "$1") || return 0 # a test that wants it says so; netperf is not in Debian 12
  cp -L "$path" "$tree/bin/$1"
  ldd "$path" | grep -o '/[^ ]*' | while read -r library; do
    mkdir -p "$tree${library%/*}"
    cp -L "$library" "$tree$library"
  done
}

main
