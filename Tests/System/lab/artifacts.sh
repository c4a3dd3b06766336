#!/usr/bin/env bash
# Fetches what the lab boots and that Debian 12 has no installed package for, into a cache folder:
# QEMU 10 and a 6.12 kernel of bookworm-backports, unpacked beside the system and never installed.
#
# Why not Debian 12's own QEMU: 7.2.22 segfaults with vhost-user and MSI-X under TCG.
#
# The cache is ${VHOST_USER_XDP_CACHE:-.lab in the root of the project}; to remove it is always
# safe. A second run with a complete cache takes no time and no network.
#
#   bin/qemu-system-x86_64   runs the unpacked QEMU with its own libraries and firmware
#   vmlinuz                  the kernel
#   modules/                 its module tree (lib/modules/RELEASE below it)
#   initramfs.cpio.gz        made by initramfs.sh
set -euo pipefail

lab=$(dirname "$(readlink -f "${BASH_SOURCE[0]}")")
cache=${VHOST_USER_XDP_CACHE:-$(readlink -f "$lab/../../..")/.lab}

die() {
  echo "artifacts.sh: $*" >&2
  exit 1
}

# shellcheck source=Tests/System/lab/private-apt.sh
source "$lab/private-apt.sh"

main() {
  mkdir -p "$cache"
  exec 9>"$cache/lock"
  flock 9 # two labs that start at the same time share one download

  if ! qemu_runs || [[ ! -s $cache/vmlinuz || ! -d $cache/modules/lib/modules ]]; then
    echo "fetching QEMU and a kernel of $private_apt_suite into $cache"
    private_apt_setup "$cache/apt"
    fetch_qemu
    fetch_kernel
    rm -rf "$cache/apt"
  fi
  "$lab/initramfs.sh" "$cache"
}

qemu_runs() {
  [[ -x $cache/bin/qemu-system-x86_64 ]] &&
    "$cache/bin/qemu-system-x86_64" --version >/dev/null 2>&1
}

# QEMU with the libraries that the system lacks; ipxe-qemu has the boot ROM of virtio-net.
fetch_qemu() {
  rm -rf "$cache/qemu" "$cache/apt/archives/"*.deb
  private_apt_fetch "$cache/apt" qemu-system-x86 ipxe-qemu
  unpack "$cache/qemu"

  mkdir -p "$cache/bin"
  cat >"$cache/bin/qemu-system-x86_64" <<'EOF'
#!/bin/sh
# The QEMU that is unpacked beside this folder, with its own libraries, modules and firmware.
root=$(dirname "$(dirname "$(readlink -f "$0")")")/qemu
libraries=$(echo "$root"/usr/lib/*-linux-gnu)
export LD_LIBRARY_PATH="$libraries:$root/lib/${libraries##*/}${LD_LIBRARY_PATH:+:$LD_LIBRARY_PATH}"
export QEMU_MODULE_DIR="$libraries/qemu"
exec "$root/usr/bin/qemu-system-x86_64" \
  -L "$root/usr/share/qemu" -L "$root/usr/share/seabios" -L "$root/usr/lib/ipxe/qemu" "$@"
EOF
  chmod +x "$cache/bin/qemu-system-x86_64"
  qemu_runs || die "the unpacked QEMU does not start:" \
    "$("$cache/bin/qemu-system-x86_64" --version 2>&1 | head -n 1)"
}

# The package linux-image-6.12-amd64 is empty and depends on the newest build of that series.
fetch_kernel() {
  local package
  package=$(private_apt_depends "$cache/apt" linux-image-6.12-amd64 | head -n 1)
  [[ -n $package ]] || die "linux-image-6.12-amd64 is not in $private_apt_suite of the mirror"
  rm -rf "$cache/modules" "$cache/vmlinuz" "$cache/apt/archives/"*.deb
  private_apt_download "$cache/apt" "$package"
  unpack "$cache/modules"
  mv "$cache/modules/boot/"vmlinuz-* "$cache/vmlinuz"
}

# unpack DIR: all downloaded packages; they are unpacked, not installed: no script of them runs.
unpack() {
  local package
  for package in "$cache/apt/archives/"*.deb; do
    dpkg-deb -x "$package" "$1"
    rm -f "$package"
  done
}

main "$@"
