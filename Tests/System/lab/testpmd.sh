# shellcheck shell=bash
# DPDK as the front-end: testpmd with a virtio-user port, started by qemu-configs/dpdk-virtio-user.sh
# and driven by its own command line.
#
# Needs SOCKET (lab_open sets it). All state is in the folder TESTPMD_DIR (lab_open sets it):
# testpmd.in, testpmd.log, testpmd.pid. Variables of dpdk-virtio-user.sh that a caller may set:
# DEVICE_OPTIONS, QUEUES, RING_SIZE, MEMORY_OPTIONS.
#
#   testpmd_start [ARGUMENT...]   starts it, not forwarding yet, and waits for its prompt (30 s);
#                                 ARGUMENT such as --forward-mode=txonly, --txpkts=1500
#   testpmd_command COMMAND       gives it a command and prints what it answers
#   testpmd_transmit SECONDS      forwards so long (with --forward-mode=txonly), lets the rings
#                                 run empty, and prints how many packets left its port
#   testpmd_counter COUNTER       prints a counter of its port: RX-packets, TX-packets, RX-missed,
#                                 RX-errors, TX-errors, RX-bytes, TX-bytes
#   testpmd_pid                   prints its process id; fails when it does not run
#   testpmd_stop                  quits it in order, then by force; never fails
#   testpmd_kill                  ends it with SIGKILL, as a crash would

testpmd_lab=$(dirname "$(readlink -f "${BASH_SOURCE[0]}")")
readonly testpmd_lab
testpmd_configs=$(readlink -f "$testpmd_lab/../../../qemu-configs")
readonly testpmd_configs
readonly testpmd_prompt='testpmd> '

testpmd_start() {
  local try
  rm -f "$TESTPMD_DIR"/testpmd.*
  mkfifo "$TESTPMD_DIR/testpmd.in"
  # stdbuf: its prompt is not buffered, its answers would be.
  stdbuf -o0 "$testpmd_configs/dpdk-virtio-user.sh" --interactive "$@" <>"$TESTPMD_DIR/testpmd.in" \
    >"$TESTPMD_DIR/testpmd.log" 2>&1 &
  echo $! >"$TESTPMD_DIR/testpmd.pid"
  for ((try = 0; try < 300; try++)); do
    ! grep -q "$testpmd_prompt" "$TESTPMD_DIR/testpmd.log" || return 0
    testpmd_pid >/dev/null || break
    sleep 0.1
  done
  echo "testpmd: no prompt" >&2
  tail -n 10 "$TESTPMD_DIR/testpmd.log" >&2
  return 1
}

# testpmd echoes a command after its prompt and prompts again when it is done.
testpmd_command() {
  local before answer try
  before=$(stat -c %s "$TESTPMD_DIR/testpmd.log")
  printf '%s\n' "$*" >>"$TESTPMD_DIR/testpmd.in"
  for ((try = 0; try < 100; try++)); do
    answer=$(tail -c "+$((before + 1))" "$TESTPMD_DIR/testpmd.log")
    if [[ $answer == *"$testpmd_prompt" ]]; then
      printf '%s\n' "${answer%"$testpmd_prompt"}"
      return 0
    fi
    testpmd_pid >/dev/null || break
    sleep 0.05
  done
  echo "testpmd: no answer to: $*" >&2
  return 1
}

testpmd_transmit() {
  testpmd_command start >/dev/null || return
  sleep "$1"
  testpmd_command stop >/dev/null || return
  sleep 1
  testpmd_counter TX-packets
}

testpmd_counter() {
  testpmd_command show port stats 0 | grep -oE "$1: *[0-9]+" | grep -oE '[0-9]+$' | head -n 1
}

testpmd_pid() {
  local pid
  read -r pid 2>/dev/null <"$TESTPMD_DIR/testpmd.pid" || return 1
  kill -0 "$pid" 2>/dev/null && echo "$pid"
}

testpmd_stop() {
  local pid try
  pid=$(testpmd_pid) || return 0
  printf 'quit\n' >>"$TESTPMD_DIR/testpmd.in"
  for ((try = 0; try < 60; try++)); do
    kill -0 "$pid" 2>/dev/null || return 0
    sleep 0.05
  done
  kill -KILL "$pid" 2>/dev/null || true
}

testpmd_kill() {
  local pid
  pid=$(testpmd_pid) || return 0
  kill -KILL "$pid"
  wait "$pid" 2>/dev/null || true
}
