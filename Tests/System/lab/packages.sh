#!/usr/bin/env bash
# Installs, with apt-get, the Debian packages that the build and the lab need.
#
#   packages.sh build        what `swift build` needs besides the Swift toolchain
#   packages.sh lab          what the demo and the system tests need besides
#   packages.sh gates        what the gates need besides
#   packages.sh build lab    both
#
# Only what is missing is installed, and its names are printed first. Nothing is done, and no
# root rights are needed, when everything is there. A mirror that fails, or has another update on its way,
# is asked again, for about two minutes.
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

readonly gate_packages=(binutils git make shellcheck)

# With a mirror, and with another apt that is at work.
readonly patience=(-o Acquire::Retries=5 -o Acquire::http::Timeout=60 -o DPkg::Lock::Timeout=300)

die() {
  echo "packages.sh: $*" >&2
  exit 1
}

main() {
  local wanted=() missing=() group package pause
  [[ $# -gt 0 ]] || die "name a group: build, gates, lab"
  for group in "$@"; do
    case $group in
      build) wanted+=("${build_packages[@]}") ;;
      gates) wanted+=("${gate_packages[@]}") ;;
      lab) wanted+=("${lab_packages[@]}") ;;
      *) die "unknown group '$group': the groups are build, gates and lab" ;;
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
  for pause in 0 30 90; do
    sleep "$pause"
    # Of a run that was ended by force.
    dpkg --configure -a >/dev/null || true
    # The lists may be old, or were never read; one that fails need not be one that is wanted.
    apt-get -qq "${patience[@]}" update || true
    install_packages "${missing[@]}" && return
  done
  die "apt-get could not install ${missing[*]}"
}

is_installed() {
  [[ $(dpkg-query -W -f '${db:Status-Status}' "$1" 2>/dev/null) == installed ]]
}

install_packages() {
  DEBIAN_FRONTEND=noninteractive \
    apt-get -qq -y "${patience[@]}" --no-install-recommends -o Dpkg::Use-Pty=0 install "$@" >/dev/null
}

main "$@"
