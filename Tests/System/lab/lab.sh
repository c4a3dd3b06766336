# shellcheck shell=bash
# The laboratory: one wire, one back-end, one guest, and the certainty that all is removed.
#
#   far namespace: peer0 --- veth --- nic0 :near namespace: back-end --- vhost-user --- QEMU: guest
#
# A test sources this file, which sources the others, and calls lab_open once:
#
#   source Tests/System/lab/lab.sh
#   lab_open reconnect && backend_start && guest_start && guest_wait && guest_address
#   guest_run 'ping -c 10 10.77.0.1'
#
# At its end, also by a signal or a failure, everything is taken down.
#
#   lab_open TITLE [QUEUES] [MTU]   makes LAB_DIR, a temporary folder, and the namespaces; sets LAB_NAME
#                               (unique on the machine), GUEST_DIR, BACKEND_DIR, TESTPMD_DIR, SOCKET
#   lab_background COMMAND...   runs COMMAND (a function of the lab, too) until the end
#   lab_close                   takes all down; runs by itself at the end of the shell
#   lab_leftovers               prints what a lab_close has left of this lab: nothing
#   die MESSAGE...              ends the shell with the message

lab_folder=$(dirname "$(readlink -f "${BASH_SOURCE[0]}")")
readonly lab_folder

die() {
  echo "lab: $*" >&2
  exit 1
}

# shellcheck source=Tests/System/lab/netns.sh
source "$lab_folder/netns.sh"
# shellcheck source=Tests/System/lab/backend.sh
source "$lab_folder/backend.sh"
# shellcheck source=Tests/System/lab/guest.sh
source "$lab_folder/guest.sh"
# shellcheck source=Tests/System/lab/testpmd.sh
source "$lab_folder/testpmd.sh"
# shellcheck source=Tests/System/lab/netboot.sh
source "$lab_folder/netboot.sh"

lab_processes=()

lab_open() {
  [[ $EUID -eq 0 ]] || die "network namespaces and AF_XDP sockets need root: run as root (sudo)"
  [[ -s $GUEST_CACHE/initramfs.cpio.gz ]] || die "no guest in $GUEST_CACHE: run lab/artifacts.sh"
  LAB_NAME=vux-$1-$$
  LAB_DIR=$(mktemp -d "/tmp/$LAB_NAME.XXXXXX")
  # bash runs the EXIT trap after a signal only if the signal ends it by an exit of its own. And
  # in there a bare `return` has the status from before the trap: with -e the rest would be skipped.
  trap 'set +e; lab_close' EXIT
  trap 'exit 130' INT
  trap 'exit 143' TERM HUP
  GUEST_DIR=$LAB_DIR/guest
  BACKEND_DIR=$LAB_DIR
  TESTPMD_DIR=$LAB_DIR
  export SOCKET=$BACKEND_DIR/sock
  mkdir "$GUEST_DIR"
  netns_create "$LAB_NAME" "${2:-1}" "${3:-1500}" || die "no namespaces: see the message above"
}

lab_background() {
  "$@" </dev/null &
  lab_processes+=($!)
}

lab_close() {
  trap '' INT TERM HUP
  guest_stop
  testpmd_stop
  backend_stop 2>/dev/null || true
  if ((${#lab_processes[@]})); then
    kill "${lab_processes[@]}" 2>/dev/null || true
  fi
  netns_remove "$LAB_NAME"
  wait
  rm -rf "$LAB_DIR"
  trap - EXIT INT TERM HUP
}

lab_leftovers() {
  netns_leftovers "$LAB_NAME"
  find /tmp -maxdepth 1 -path "$LAB_DIR" -print
  # Processes of this lab have its name in a path of their command line.
  grep -lsF -- "$LAB_NAME" /proc/[0-9]*/cmdline || true
}
