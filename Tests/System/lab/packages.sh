#!/usr/bin/env bash
# Installs, with apt-get, the Debian packages that the build and the lab need.
#
#   packages.sh build        what `swift build` needs besides the Swift toolchain
#   packages.sh lab          what the demo and the system tests need besides
#   packages.sh build lab    both
#
# Only what is missing is installed, and its names are printed first. Nothing is done, and no
# root rights are needed, when everything is there.
set -euo pipefail

# libbpf, libnuma and libseccomp: headers and libraries; linux-libc-dev: the headers of the XDP program.
readonly build_packages=(libbpf-dev libnuma-dev libseccomp-dev libelf-dev zlib1g-dev linux-libc-dev)

# busybox-static, cpio, gcc, kmod, xz-utils: the guest's initramfs. dnsmasq-base: the server of network
# boots. dpdk-dev: dpdk-testpmd and its drivers, the second front-end, and the back-end that results
# are compared with. python3: the far end. util-linux: prlimit, setpriv and unshare, for faults.
# libvirt-clients, libxml2-utils: virt-xml-validate, with libvirt's schemas. systemd: systemd-analyze,
# which looks at the unit. tshark: looks at every checksum on the wire.
readonly lab_packages=(
  busybox-static ca-certificates cpio dnsmasq-base dpdk-dev ethtool gcc gzip iperf3 iproute2 kmod
  libc6-dev libvirt-clients libxml2-utils procps python3 systemd tcpdump tshark util-linux valgrind
  xz-utils
)

die() {
  echo "packages.sh: $*" >&2
  exit 1
}

main() {
  local wanted=() missing=() group package
  [[ $# -gt 0 ]] || die "name a group: build, lab"
  for group in "$@"; do
    case $group in
      build) wanted+=("${build_packages[@]}") ;;
      lab) wanted+=("${lab_packages[@]}") ;;
      *) die "unknown group '$group': the groups are build and lab" ;;
    esac
  done
  command -v apt-get >/dev/null ||
    die "apt-get is not here: install the equivalents of ${wanted[*]} and go on without this step"

  for package in "${wanted[@]}"; do
    is_installed "$package" || missing+=("$package")
  done
  [[ ${#missing[@]} -gt 0 ]] || return 0

  [[ $EUID -eq 0 ]] || die "run as root, or install: apt-get install ${missing[*]}"
  echo "installing: ${missing[*]}"
  install_packages "${missing[@]}" && return
  apt-get -qq update
  install_packages "${missing[@]}" || die "apt-get could not install ${missing[*]}"
}

is_installed() {
  [[ $(dpkg-query -W -f '${db:Status-Status}' "$1" 2>/dev/null) == installed ]]
}

install_packages() {
  DEBIAN_FRONTEND=noninteractive \
    apt-get -qq -y --no-install-recommends -o Dpkg::Use-Pty=0 install "$@" >/dev/null
}

main "$@"
