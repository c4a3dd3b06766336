#!/usr/bin/env bash
# `make bench`: the daemon against dpdk-testpmd, in the same run.
#
#   bench.sh [OPTION...]     builds what is needed and measures; --help shows the options
#   bench.sh --list          prints the names of the rows
#   bench.sh --only=ROW      measures a row alone
#   bench.sh --render=FILE   writes docs/ from a result, and measures nothing
#
# BACKEND and BENCH_DRIVER name binaries to use in place of those that are built here;
# HUGE_PAGES=0 does without huge pages.
set -euo pipefail

root=$(readlink -f "$(dirname "${BASH_SOURCE[0]}")/../..")
# 2 MiB pages for both testpmds and the daemon's frames, as long as the benchmark runs.
readonly root bench_name=vux-bench-$$ wanted_pages=640
readonly page_count=/proc/sys/vm/nr_hugepages
pages_before=
folder=

# shellcheck source=Tests/System/lab/netns.sh
source "$root/Tests/System/lab/netns.sh"

die() {
  echo "bench: $*" >&2
  exit 1
}

main() {
  local word
  for word in "$@"; do
    case $word in
      --help | -h | --list | --render=*) exec python3 -B "$root/Tests/Bench/bench.py" "$@" ;;
    esac
  done
  [[ $EUID -eq 0 ]] || die "network namespaces and AF_XDP need root: run as root (sudo make bench)"
  cd "$root"
  Tests/System/lab/packages.sh build lab
  build

  trap clean_up EXIT
  trap 'exit 130' INT
  trap 'exit 143' TERM HUP
  folder=$(mktemp -d "/tmp/$bench_name.XXXXXX")
  cc -O2 -Wall -Wextra -o "$folder/floor" Tests/Bench/floor.c
  cc -O2 -Wall -Wextra -pthread -o "$folder/wake" Tests/Bench/wake.c
  cc -O2 -Wall -Wextra -o "$folder/relay" Tests/Bench/relay.c
  netns_create "$bench_name"
  ip -n "$NETNS_NEAR" link add sink0 type ifb && ip -n "$NETNS_NEAR" link set sink0 up ||
    echo "bench: no ifb on this kernel: its rows will fail" >&2
  local options=(--backend="$BACKEND" --near="$NETNS_NEAR" --floor="$folder/floor"
    --wake="$folder/wake" --relay="$folder/relay"
    --folder="$folder/$bench_name")
  [[ -z ${BENCH_DRIVER:-} ]] || options+=(--bench-driver="$BENCH_DRIVER")
  ! compile_program || options+=(--reference-program="$folder/reference.bpf.o")
  mkdir "$folder/$bench_name"
  ! reserve_pages || options+=(--huge-pages)
  # bench.py is the host at the far end: what arrives there is what counts.  In the background, for
  # a shell that waits for a command in the foreground hears of no signal until it ends.
  ip netns exec "$NETNS_FAR" python3 -B Tests/Bench/bench.py "${options[@]}" "$@" &
  wait $!
}

build() {
  if [[ -z ${BACKEND:-} ]]; then
    swift build -c release --product vhost-user-xdp
    BACKEND=$root/.build/release/vhost-user-xdp
  fi
  if [[ -z ${BENCH_DRIVER:-} ]] && grep -q '"bench-driver"' Package.swift; then
    swift build -c release --product bench-driver
    BENCH_DRIVER=$root/.build/release/bench-driver
  fi
}

# By the clang of the Swift toolchain, as the daemon's own.
compile_program() {
  local clang=clang
  [[ ! -x $(dirname "$(readlink -f "$(command -v swift)")")/clang ]] ||
    clang=$(dirname "$(readlink -f "$(command -v swift)")")/clang
  "$clang" -O2 -g -target bpf -I"/usr/include/$(uname -m)-linux-gnu" \
    -c Tests/Bench/reference.bpf.c -o "$folder/reference.bpf.o"
}

reserve_pages() {
  [[ ${HUGE_PAGES:-1} != 0 && -w $page_count ]] || return
  read -r pages_before <$page_count
  ((pages_before >= wanted_pages)) || echo $wanted_pages >$page_count
  local free
  free=$(awk '/^HugePages_Free/ { print $2 }' /proc/meminfo)
  ((free >= wanted_pages * 3 / 4)) && grep -q '^Hugepagesize: *2048 kB' /proc/meminfo && return
  echo "bench: $free huge pages are free, $wanted_pages were wanted: goes on with normal pages" >&2
  echo "$pages_before" >$page_count
  return 1
}

clean_up() {
  local status=$?
  jobs -p | xargs -r kill -TERM 2>/dev/null || true
  wait || true
  netns_remove "$bench_name"
  [[ -z $pages_before ]] || echo "$pages_before" >$page_count || true
  [[ -z $folder ]] || rm -rf "$folder" /run/dpdk/"$bench_name"*
  exit $status
}

main "$@"
