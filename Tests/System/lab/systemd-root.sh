#!/usr/bin/env bash
# Builds a Debian with systemd that boots from memory: the packages that artifacts.sh has unpacked
# into FOLDER/debian, the kernel modules that the daemon and its test use, and service/, which the
# first boot runs.
#
#   systemd-root.sh FOLDER      writes FOLDER/debian.cpio, unless it is newer than its parts
#   systemd-root.sh FOLDER --boot PROGRAM...
#                               boots it, with `make install` of this project and each PROGRAM (into
#                               /usr/bin) laid over it, on the 6.12 kernel; its console is the output.
#                               It ends by itself when service/check.py has ended, or after
#                               BOOT_SECONDS (500).
#
# The packages are unpacked and not configured: their users and the daemon's are made at boot, by
# systemd-sysusers, as on any installed system.  The archive is not compressed: an emulated CPU would
# take longer to unpack it than QEMU takes to load it.
set -euo pipefail

lab=$(dirname "$(readlink -f "${BASH_SOURCE[0]}")")
readonly lab
readonly cache=${1:?usage: systemd-root.sh FOLDER [--boot PROGRAM...]}
readonly image=$cache/debian.cpio
readonly parts=("$lab/systemd-root.sh" "$lab/service/lab.service" "$lab/service/check.py"
  "$lab/service/front_end.py" "$cache/vmlinuz" "$cache/debian/usr/lib/systemd/systemd")
readonly modules=(veth af_packet)

# What waits for devices, logins or a network that are not there.
readonly masked=(getty.target systemd-logind.service systemd-networkd.service
  systemd-network-generator.service systemd-random-seed.service systemd-update-utmp.service
  systemd-pcrphase.service systemd-pcrphase-sysinit.service remote-fs.target
  systemd-boot-system-token.service tmp.mount)

# shellcheck source=Tests/System/lab/modules.sh
source "$lab/modules.sh"
# shellcheck source=Tests/System/lab/guest.sh
source "$lab/guest.sh"

die() {
  echo "systemd-root.sh: $*" >&2
  exit 1
}

main() {
  local part stale=
  for part in "${parts[@]}"; do
    [[ $image -nt $part ]] || stale=yes
  done
  [[ -z $stale ]] || build
  [[ ${2:-} != --boot ]] || boot "${@:3}"
}

build() {
  local unit units tree
  tree=$(mktemp -d "$cache/debian.XXXXXX")
  # shellcheck disable=SC2064 # now
  trap "rm -rf '$tree' '$image.new'" EXIT
  cp -a "$cache/debian/." "$tree/"
  mkdir -p "$tree"/{dev,etc,proc,root,run,sys,tmp,var/lib,var/log} "$tree/usr/lib/lab"
  cp "$tree/usr/share/base-passwd/passwd.master" "$tree/etc/passwd"
  cp "$tree/usr/share/base-passwd/group.master" "$tree/etc/group"
  echo lab >"$tree/etc/hostname"
  # With one of its own it would not be a first boot of many questions.
  echo 0123456789abcdef0123456789abcdef >"$tree/etc/machine-id"
  ln -sf usr/lib/systemd/systemd "$tree/init"
  install -m 755 "$lab/service/check.py" "$lab/service/front_end.py" "$tree/usr/lib/lab/"
  units=$tree/etc/systemd/system
  mkdir -p "$units/multi-user.target.wants"
  install -m 644 "$lab/service/lab.service" "$units/"
  ln -sf ../lab.service "$units/multi-user.target.wants/lab.service"
  ln -sf /usr/lib/systemd/system/multi-user.target "$units/default.target"
  # They look for what this machine has not, at each reload.
  rm -rf "$tree/usr/lib/systemd/system-generators"
  for unit in "${masked[@]}"; do ln -sf /dev/null "$units/$unit"; done
  modules_add "$cache/modules" "$tree" "${modules[@]}"
  archive "$tree" "$image.new"
  mv "$image.new" "$image"
  rm -rf "$tree"
}

# archive TREE FILE
archive() {
  (cd "$1" && find . -print0 | cpio --null --create --format=newc --owner=0:0 --quiet) >"$2"
}

boot() {
  local over=$cache/over.$$ program
  # shellcheck disable=SC2064 # now
  trap "rm -rf '$over' '$over.cpio'" EXIT
  # One that was ended by force may have had the same number.
  rm -rf "$over" "$over.cpio"
  mkdir "$over"
  make --no-print-directory -C "$lab/../../.." install DESTDIR="$over" >/dev/null
  for program in "$over/usr/bin/vhost-user-xdp" "$@"; do add_program "$program"; done
  archive "$over" "$over.cpio"
  # The kernel unpacks one archive after the other. Without IPv6 nobody sends frames of his own accord.
  cat "$image" "$over.cpio" >"$over/root.cpio"
  timeout "${BOOT_SECONDS:-500}" "$cache/bin/qemu-system-x86_64" \
    -machine q35 -accel "$(GUEST_CACHE=$cache guest_accel)" -cpu max -m 1G -smp 2 \
    -nodefaults -no-user-config -display none -no-reboot -serial stdio \
    -kernel "$cache/vmlinuz" -initrd "$over/root.cpio" \
    -append "$(GUEST_CACHE=$cache guest_command_line) panic=-1 rdinit=/init systemd.show_status=no ipv6.disable=1" \
    </dev/null
}

# The libraries that it is linked with, as far as the root has none of that name: where the toolchain's
# own folder is not, the loader looks there.
add_program() {
  local library folder=usr/lib/x86_64-linux-gnu
  mkdir -p "$over/$folder" "$over/usr/bin"
  [[ $1 -ef $over/usr/bin/${1##*/} ]] || install -m 755 "$1" "$over/usr/bin/"
  ldd "$1" | grep -o '/[^ ]*' | while read -r library; do
    [[ -e $cache/debian/$folder/${library##*/} || -e $cache/debian/$library ]] ||
      cp -L "$library" "$over/$folder/"
  done
}

main "$@"
