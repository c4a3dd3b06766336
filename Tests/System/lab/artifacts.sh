#!/usr/bin/env bash
# Fetches what the lab boots and that Debian 12 has no installed package for, into a cache folder,
# unpacked beside the system and never installed: QEMU 10 and a 6.12 kernel of bookworm-backports;
# Debian 12's own 6.1 kernel; the newest kernel there is for Debian, of trixie-backports; the
# firmware and boot program of a UEFI network boot; and a Debian 12 with systemd.
#
# Why not Debian 12's own QEMU: 7.2.22 segfaults with vhost-user and MSI-X under TCG.
#
# The cache is ${VHOST_USER_XDP_CACHE:-.lab in the root of the project}; to remove it is always
# safe. A second run with a complete cache takes no time and no network.
#
#   bin/qemu-system-x86_64   runs the unpacked QEMU with its own libraries and firmware
#   bin/tsc-khz              prints how fast the machine's time-stamp counter runs
#   vmlinuz                  the 6.12 kernel
#   modules/                 its module tree (lib/modules/RELEASE below it)
#   initramfs.cpio.gz        made by initramfs.sh
#   linux-6.1/               the same three of the other kernels
#   linux-newest/
#   uefi/                    OVMF_CODE.fd, OVMF_VARS.fd, ipxe.efi
#   debian/                  the root of the Debian with systemd, and debian.cpio, what boots of it,
#                            made by systemd-root.sh
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
  rm -rf "$cache/apt"

  qemu_runs || fetch bookworm-backports fetch_qemu
  kernel_is_in "$cache" || fetch bookworm-backports fetch_kernel "$cache" linux-image-6.12-amd64
  kernel_is_in "$cache/linux-6.1" ||
    fetch bookworm-backports fetch_kernel "$cache/linux-6.1" linux-image-amd64
  [[ -s $cache/uefi/OVMF_CODE.fd && -s $cache/uefi/ipxe.efi ]] ||
    fetch bookworm-backports fetch_uefi
  [[ -x $cache/debian/usr/lib/systemd/systemd ]] || fetch bookworm-backports fetch_debian
  kernel_is_in "$cache/linux-newest" ||
    fetch trixie-backports fetch_kernel "$cache/linux-newest" linux-image-amd64
  rm -rf "$cache/apt"

  [[ $cache/bin/tsc-khz -nt $lab/tsc-khz.c ]] ||
    gcc -O2 -Wall -Wextra -Werror -o "$cache/bin/tsc-khz" "$lab/tsc-khz.c" ||
    die "tsc-khz does not compile: install gcc and libc6-dev"
  local folder
  for folder in "$cache" "$cache/linux-6.1" "$cache/linux-newest"; do
    "$lab/initramfs.sh" "$folder"
  done
  "$lab/systemd-root.sh" "$cache"
}

# fetch SUITE COMMAND...: runs COMMAND, which finds the lists of SUITE in $cache/apt. Those of the fetch
# before serve again, if it was of the same suite.
fetch() {
  echo "fetching for $cache from $1: ${*:2}"
  if [[ $1 != "${private_apt_suite:-}" ]]; then
    rm -rf "$cache/apt"
    private_apt_setup "$cache/apt" "$1"
  fi
  "${@:2}"
}

qemu_runs() {
  [[ -x $cache/bin/qemu-system-x86_64 ]] &&
    "$cache/bin/qemu-system-x86_64" --version >/dev/null 2>&1
}

# QEMU with the libraries that the system lacks; ipxe-qemu has the boot ROM of virtio-net.
fetch_qemu() {
  rm -rf "$cache/qemu"
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

kernel_is_in() {
  [[ -s $1/vmlinuz && -d $1/modules/lib/modules ]]
}

# fetch_kernel FOLDER PACKAGE: PACKAGE is empty and depends on the newest build of its series, which
# (since Linux 6.17) is itself in several packages.
fetch_kernel() {
  local folder=$1 image parts
  image=$(private_apt_depends "$cache/apt" "$2" | grep -m 1 '^linux-image-') ||
    die "$2 is not in $private_apt_suite of the mirror"
  mapfile -t parts < <(private_apt_depends "$cache/apt" "$image" |
    grep -E '^linux-(base|binary|modules)-[0-9]')
  rm -rf "$folder/modules" "$folder/vmlinuz"
  private_apt_download "$cache/apt" "$image" "${parts[@]}"
  unpack "$folder/modules"
  if [[ ! -d $folder/modules/lib/modules ]]; then
    mkdir -p "$folder/modules/lib"
    mv "$folder/modules/usr/lib/modules" "$folder/modules/lib/"
  fi
  # In one go, and last: it says that all is there.
  cp "$(find "$folder/modules/boot" "$folder/modules/lib/modules" -name 'vmlinuz*' 2>/dev/null |
    head -n 1)" "$folder/vmlinuz.new"
  mv "$folder/vmlinuz.new" "$folder/vmlinuz"
}

# The firmware of a UEFI machine, and iPXE as the program that it loads from the network.
fetch_uefi() {
  local unpacked=$cache/apt/uefi
  private_apt_download "$cache/apt" ovmf ipxe
  unpack "$unpacked"
  rm -rf "$cache/uefi" "$cache/uefi.new"
  mkdir "$cache/uefi.new"
  cp "$unpacked/usr/share/OVMF/"OVMF_{CODE,VARS}.fd "$unpacked/boot/ipxe.efi" "$cache/uefi.new/"
  mv "$cache/uefi.new" "$cache/uefi"
}

# What the daemon's service takes to run and to be looked at: systemd, the libraries of the daemon, and
# the least Python.
fetch_debian() {
  local root=$cache/debian.new package folder
  private_apt_fetch_all "$cache/apt" base-passwd bash coreutils grep iproute2 kmod libbpf1 libnuma1 \
    libseccomp2 mawk python3-minimal systemd
  rm -rf "$root" "$cache/debian"
  for folder in bin sbin lib lib64; do
    mkdir -p "$root/usr/$folder"
    ln -s "usr/$folder" "$root/$folder"
  done
  # Not by dpkg-deb alone, which would put a folder in place of such a link.
  for package in "$cache/apt/archives/"*.deb; do
    dpkg-deb --fsys-tarfile "$package" | {
      tar -C "$root" --keep-directory-symlink --extract --exclude='./usr/share/doc' \
        --exclude='./usr/share/man' --exclude='./usr/share/locale'
      cat >/dev/null
    }
    rm -f "$package"
  done
  mv "$root" "$cache/debian"
}

# unpack DIR: all downloaded packages; they are unpacked, not installed: no script of them runs.
unpack() {
  local package
  mkdir -p "$1"
  for package in "$cache/apt/archives/"*.deb; do
    dpkg-deb -x "$package" "$1"
    rm -f "$package"
  done
}

main "$@"
