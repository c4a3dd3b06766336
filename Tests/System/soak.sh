#!/usr/bin/env bash
# `make soak`: two guests under mixed load, and random faults, for half an hour.
#
#   soak.sh [--seconds=N | --once] [--seed=N] [--only=FAULT] [--list]
#
# 1800 seconds unless told otherwise; --once: each fault once. The same seed gives the same order of faults,
# and --list prints them.
#
# BACKEND and BENCH_DRIVER name binaries to use in place of those that are built here. What is measured,
# and how, stands in soak.py.
set -euo pipefail

root=$(readlink -f "$(dirname "${BASH_SOURCE[0]}")/../..")
readonly root soak_name=vux-soak-$$
folder=

# shellcheck source=Tests/System/lab/netns.sh
source "$root/Tests/System/lab/netns.sh"

die() {
  echo "soak: $*" >&2
  exit 1
}

main() {
  case " $* " in *" --list "*) exec python3 -B "$root/Tests/System/soak.py" "$@" ;; esac
  [[ $EUID -eq 0 ]] || die "network namespaces and AF_XDP need root: run as root (sudo make soak)"
  cd "$root"
  build
  trap clean_up EXIT
  trap 'exit 130' INT
  trap 'exit 143' TERM HUP
  folder=$(mktemp -d "/tmp/$soak_name.XXXXXX")
  netns_create "$soak_name"
  second_wire
  # In the background: a shell that waits for one in the foreground hears of no signal until it ends.
  python3 -B Tests/System/soak.py --name="$soak_name" --folder="$folder" --backend="$BACKEND" \
    --bench-driver="$BENCH_DRIVER" "$@" &
  wait $!
}

build() {
  if [[ -z ${BACKEND:-} || -z ${BENCH_DRIVER:-} ]]; then
    Tests/System/lab/packages.sh build lab
    swift build -c release --product vhost-user-xdp
    swift build -c release --product bench-driver
    BACKEND=$root/.build/release/vhost-user-xdp
    BENCH_DRIVER=$root/.build/release/bench-driver
  fi
}

# nic1 and peer1 for the second guest, whose network stack lives in a namespace of its own.
second_wire() {
  ip netns add "$soak_name-guest"
  ip -n "$soak_name-guest" link set lo up
  ip netns exec "$soak_name-guest" sysctl -qw net.ipv6.conf.default.disable_ipv6=1
  ip netns exec "$soak_name-far" sysctl -qw net.ipv6.conf.peer0.disable_ipv6=1
  ip -n "$NETNS_NEAR" link add nic1 type veth peer name peer1 netns "$NETNS_FAR"
  netns_far ethtool -K peer1 tx off >/dev/null
  ip -n "$NETNS_FAR" address add 10.78.0.1/24 dev peer1
  ip -n "$NETNS_NEAR" link set nic1 up
  ip -n "$NETNS_FAR" link set peer1 up
}

clean_up() {
  local status=$?
  jobs -p | xargs -r kill -TERM 2>/dev/null || true
  wait || true
  netns_remove "$soak_name"
  ip netns pids "$soak_name-guest" 2>/dev/null | xargs -r kill -KILL 2>/dev/null || true
  ip netns delete "$soak_name-guest" 2>/dev/null || true
  [[ -z $folder ]] || rm -rf "$folder" /run/dpdk/"$soak_name"*
  exit "$status"
}

main "$@"
