# shellcheck shell=bash
# The back-end under test: starts it in the near namespace on nic0, and ends it.
#
# Needs netns.sh and a pair in use. All state is in the folder BACKEND_DIR: the socket `sock`,
# `backend.log` (the back-end's stderr and stdout, all starts of it), and `backend.pid`.
#
#   backend_start [OPTION...]   starts the daemon with --interface=nic0 --dedicated and OPTIONs,
#                               and waits until its socket is there (10 s)
#   backend_start_plain OPTION...    the same with --socket-path and OPTIONs alone; with --client
#                               it does not wait
#   backend_start_testpmd       starts DPDK's own back-end in its place (net_vhost + net_af_xdp in
#                               dpdk-testpmd), one queue pair: what results are compared with
#   backend_pid                 prints its process id; fails when it does not run
#   backend_counters            asks the daemon for its counters (SIGUSR1) and prints them
#   backend_stop                ends it with SIGTERM and returns its exit status; 137 if it did not
#                               end within 5 s and was killed
#   backend_kill                ends it with SIGKILL, as a crash would
#   backend_programs            prints the XDP programs attached in the near namespace: none,
#                               when no back-end runs
#
# BACKEND: the daemon's binary; .build/release/vhost-user-xdp unless it is set.

backend_lab=$(dirname "$(readlink -f "${BASH_SOURCE[0]}")")
: "${BACKEND:=$(readlink -f "$backend_lab/../../..")/.build/release/vhost-user-xdp}"

backend_start() {
  backend_start_plain --interface=nic0 --dedicated "$@"
}

backend_start_plain() {
  backend_launch "$BACKEND" --socket-path="$BACKEND_DIR/sock" "$@"
}

# Its standard input is a pipe that nobody writes to: at the end of its input testpmd ends.
backend_start_testpmd() {
  rm -f "$BACKEND_DIR/stdin"
  mkfifo "$BACKEND_DIR/stdin"
  backend_input=$BACKEND_DIR/stdin backend_launch \
    dpdk-testpmd -l 0,1 --no-huge -m 1024 --no-pci --file-prefix="lab$$" \
    --vdev="net_vhost0,iface=$BACKEND_DIR/sock" --vdev=net_af_xdp0,iface=nic0 -- \
    --forward-mode=io --auto-start --total-num-mbufs=16384
}

# backend_launch COMMAND...: in the near namespace, and waits for the socket to be listened on.
backend_launch() {
  local try
  # ip netns exec replaces itself by the command, so that $! is the back-end's own id.
  ip netns exec "$NETNS_NEAR" "$@" <>"${backend_input:-/dev/null}" \
    >>"$BACKEND_DIR/backend.log" 2>&1 &
  echo $! >"$BACKEND_DIR/backend.pid"
  [[ " $* " != *" --client "* ]] || return 0
  for ((try = 0; try < 100; try++)); do
    backend_listens && return
    if ! backend_pid >/dev/null; then
      break
    fi
    sleep 0.1
  done
  echo "backend: it does not listen on $BACKEND_DIR/sock" >&2
  tail -n 10 "$BACKEND_DIR/backend.log" >&2
  return 1
}

# The socket file may be a dead back-end's: the kernel's table of sockets knows the live ones.
backend_listens() {
  netns_near grep -q "00010000 .* $BACKEND_DIR/sock\$" /proc/net/unix
}

backend_pid() {
  local pid
  read -r pid 2>/dev/null <"$BACKEND_DIR/backend.pid" || return 1
  kill -0 "$pid" 2>/dev/null && echo "$pid"
}

backend_counters() {
  local pid size
  pid=$(backend_pid) || return 1
  size=$(stat -c %s "$BACKEND_DIR/backend.log")
  kill -USR1 "$pid"
  sleep 0.3
  tail -c "+$((size + 1))" "$BACKEND_DIR/backend.log"
}

backend_stop() {
  local pid status=0 try
  pid=$(backend_pid) || return 0
  kill -TERM "$pid"
  for ((try = 0; try < 100; try++)); do
    backend_pid >/dev/null || break
    sleep 0.05
  done
  kill -KILL "$pid" 2>/dev/null || true
  wait "$pid" 2>/dev/null || status=$?
  rm -f "$BACKEND_DIR/backend.pid"
  return $status
}

backend_kill() {
  local pid
  pid=$(backend_pid) || return 0
  kill -KILL "$pid"
  wait "$pid" 2>/dev/null || true
  rm -f "$BACKEND_DIR/backend.pid"
}

backend_programs() {
  ip -n "$NETNS_NEAR" -o link show | grep -o 'prog/xdp[^\\]*' || true
}
