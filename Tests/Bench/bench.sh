#!/usr/bin/env bash
# `make bench`: packets per second through the daemon, against dpdk-testpmd in the same run.
#
#   bench.sh [OPTION...]     builds the daemon and measures; the options are those of bench.py
#
# BACKEND names a binary to measure in place of the one that is built here.
set -euo pipefail

root=$(readlink -f "$(dirname "${BASH_SOURCE[0]}")/../..")
readonly root bench_name=vux-bench-$$

# shellcheck source=Tests/System/lab/netns.sh
source "$root/Tests/System/lab/netns.sh"

die() {
  echo "bench: $*" >&2
  exit 1
}

main() {
  [[ $EUID -eq 0 ]] || die "network namespaces and AF_XDP need root: run as root (sudo make bench)"
  cd "$root"
  Tests/System/lab/packages.sh build lab
  if [[ -z ${BACKEND:-} ]]; then
    swift build -c release --product vhost-user-xdp
    BACKEND=$root/.build/release/vhost-user-xdp
  fi

  trap 'netns_remove "$bench_name"' EXIT
  trap 'exit 130' INT
  trap 'exit 143' TERM HUP
  netns_create "$bench_name"
  # bench.py is the host at the far end: what arrives there is what counts.
  netns_far python3 "$root/Tests/Bench/bench.py" --backend="$BACKEND" --near="$NETNS_NEAR" "$@"
}

main "$@"
