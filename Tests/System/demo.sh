#!/usr/bin/env bash
# `make demo`: a Linux guest under QEMU talks to another host through vhost-user-xdp.
#
#   demo.sh            builds the daemon and shows it
#   demo.sh testpmd    the same guest and wire with DPDK's back-end, for comparison
#
# One command, no configuration: installs packages, fetches QEMU and a kernel into .lab, makes two
# network namespaces joined by a veth pair, and takes all down again, also after Ctrl-C.
# shellcheck disable=SC2119 # functions whose arguments are optional are called without
set -euo pipefail

root=$(readlink -f "$(dirname "${BASH_SOURCE[0]}")/../..")
readonly root
readonly backend=${1:-vhost-user-xdp}
readonly file_megabytes=64 pktgen_count=20000
failures=0

# shellcheck source=Tests/System/lab/lab.sh
source "$root/Tests/System/lab/lab.sh"

main() {
  cd "$root"
  [[ $EUID -eq 0 ]] || die "the demo makes network namespaces: run it as root (sudo make demo)"
  Tests/System/lab/packages.sh build lab
  [[ $backend == testpmd ]] || swift build -c release --product vhost-user-xdp
  Tests/System/lab/artifacts.sh

  lab_open demo
  echo "booting Linux under QEMU ($(guest_accel)), its NIC served by $backend ..."
  start_backend
  export MEMORY=512M
  local begin=$SECONDS
  guest_start
  guest_wait
  guest_address
  [[ $backend != testpmd ]] || guest_run 'ethtool -K eth0 tx off' >/dev/null
  grep -v '^ *$' "$BACKEND_DIR/backend.log" | tail -n 6 | sed 's/^/  /'

  echo
  row "guest up" "$(guest_run 'uname -r') in $((SECONDS - begin)) s"
  show_ping
  show_iperf3
  show_netperf
  show_files
  show_pktgen
  echo
  take_down
  ((failures == 0)) || die "$failures of the steps above failed"
}

start_backend() {
  case $backend in
    vhost-user-xdp) backend_start ;;
    testpmd) backend_start_testpmd ;;
    *) die "unknown back-end '$backend': vhost-user-xdp or testpmd" ;;
  esac
}

# row STEP RESULT [VERDICT]: one line of the table.
row() {
  printf '  %-24s %-52s %s\n' "$1" "$2" "${3:-ok}"
}

# failed STEP RESULT: a line whose step did not do what it should.
failed() {
  failures=$((failures + 1))
  row "$1" "$2" FAILED
}

show_ping() {
  local output summary
  output=$(guest_run "ping -c 100 -i 0.05 -W 2 $LAB_FAR_ADDRESS") || true
  summary=$(sed -n 's/.* \([0-9]*\) packets received.*/\1 of 100/p' <<<"$output")
  summary+=$(sed -n 's/^round-trip [^=]*= \([^ ]*\) ms/, min\/avg\/max \1 ms/p' <<<"$output")
  case $summary in
    "100 of 100"*) row "ping" "$summary" ;;
    *) failed "ping" "${summary:-no answer}" ;;
  esac
}

show_iperf3() {
  lab_background netns_far iperf3 --server --bind "$LAB_FAR_ADDRESS" >/dev/null 2>&1
  wait_for_port 5201
  iperf3_row "iperf3 guest to host"
  iperf3_row "iperf3 host to guest" --reverse
}

iperf3_row() {
  local title=$1 output rate
  shift
  output=$(guest_run "iperf3 --client $LAB_FAR_ADDRESS --time 5 --format m $*") || true
  rate=$(awk '/receiver/ { print $(NF - 2), $(NF - 1) }' <<<"$output")
  if [[ -n $rate && $rate != 0.00* ]]; then
    row "$title" "$rate"
  else
    failed "$title" "$(tail -n 1 <<<"$output")"
  fi
}

# netperf is not in Debian 12; where somebody has installed it, it is in the guest too.
show_netperf() {
  local test output
  command -v netserver >/dev/null && guest_run 'command -v netperf' >/dev/null || return 0
  lab_background netns_far netserver -D -L "$LAB_FAR_ADDRESS" >/dev/null 2>&1
  wait_for_port 12865
  for test in TCP_STREAM TCP_RR; do
    if output=$(guest_run "netperf -H $LAB_FAR_ADDRESS -t $test -l 5 -P 0"); then
      row "netperf $test" "$(awk 'NF > 4 { print $NF; exit }' <<<"$output")"
    else
      failed "netperf $test" "$(tail -n 1 <<<"$output")"
    fi
  done
}

# The file goes into the guest and the guest's copy comes back: three equal sums.
show_files() {
  local sent guest back title="$file_megabytes MB file"
  mkdir "$LAB_DIR/files"
  head -c "${file_megabytes}M" /dev/urandom >"$LAB_DIR/files/sent"
  sent=$(sum "$LAB_DIR/files/sent")

  lab_background netns_far busybox httpd -f -p "$LAB_FAR_ADDRESS:80" -h "$LAB_DIR/files"
  wait_for_port 80
  guest=$(guest_run -t 120 "wget -q -O /tmp/file http://$LAB_FAR_ADDRESS/sent &&
    sha256sum /tmp/file") || true
  compare "$title to the guest" "$sent" "${guest%% *}"

  guest_run 'httpd -p 80 -h /tmp'
  netns_far timeout 120 busybox wget -q -O "$LAB_DIR/files/back" "http://$LAB_GUEST_ADDRESS/file" ||
    true
  back=$(sum "$LAB_DIR/files/back")
  compare "$title to the host" "$sent" "$back"
}

sum() {
  sha256sum "$1" | cut -d ' ' -f 1
}

compare() {
  if [[ $2 == "$3" ]]; then
    row "$1" "SHA-256 equal, ${2:0:16}..."
  else
    failed "$1" "SHA-256 ${2:0:8}... became ${3:0:8}..."
  fi
}

# The kernel's packet generator in the guest; what arrives is counted by the far interface. The
# destination is nobody's address, so that nothing answers.
show_pktgen() {
  local before after arrived sent output
  before=$(netns_counter far rx_packets)
  output=$(guest_run "modprobe pktgen
    echo 'add_device eth0' >/proc/net/pktgen/kpktgend_0
    for setting in 'count $pktgen_count' 'pkt_size 60' 'dst $LAB_FAR_ADDRESS' \
      'dst_mac 02:00:00:00:00:99'; do
      echo \"\$setting\" >/proc/net/pktgen/eth0
    done
    echo start >/proc/net/pktgen/pgctrl
    cat /proc/net/pktgen/eth0") || true
  sent=$(sed -n 's/.*pkts-sofar: \([0-9]*\).*/\1/p' <<<"$output")
  sleep 0.5
  after=$(netns_counter far rx_packets)
  arrived=$((after - before))
  local rate
  rate=$(sed -n 's/^ *\([0-9]*\)pps .*/, \1 packets\/s/p' <<<"$output")
  if [[ $sent == "$pktgen_count" ]] && ((arrived >= sent)); then
    row "pktgen guest to host" "$sent sent, all arrived$rate"
  else
    failed "pktgen guest to host" "${sent:-0} sent, $arrived arrived"
  fi
}

# wait_for_port PORT: until somebody listens on it in the far namespace.
wait_for_port() {
  local try
  for ((try = 0; try < 50; try++)); do
    [[ -z $(netns_far ss -Hltn "sport = :$1") ]] || return 0
    sleep 0.1
  done
  die "no server on port $1"
}

take_down() {
  local status=0 programs left
  guest_stop
  backend_stop || status=$?
  programs=$(backend_programs)
  lab_close
  left=$(lab_leftovers)$programs
  if [[ -n $left ]]; then
    failed "left behind" "$left"
  elif ((status != 0)); then
    failed "taken down" "$backend ended with status $status"
  else
    row "taken down" "no namespace, process, XDP program or file left"
  fi
}

main "$@"
