# shellcheck shell=bash
# The QEMU guest: starts it with qemu-configs/qemu-vhost-user.sh and runs commands in it.
#
# All state of a guest is in the folder GUEST_DIR, so two guests are two values of GUEST_DIR, and a
# guest may be started by one shell and driven by another:
#   console.log, qemu.log     the messages of the guest's kernel, and of QEMU
#   control.in, control.out   the control channel (guest/agent)
#   monitor.in, monitor.out   QEMU's monitor
#   qemu.pid                  QEMU's process id
#
# Variables that a caller sets before guest_start, besides those of qemu-vhost-user.sh
# (SOCKET, MAC, QUEUES, CPUS, MEMORY, MEMORY_OPTIONS, ACCEL, DEVICE_OPTIONS, RING_SIZE):
#   GUEST_DIR       an existing folder
#   GUEST_CACHE     what artifacts.sh filled
#   GUEST_KERNEL    6.1 or newest: a kernel other than 6.12
#   GUEST_APPEND    more words for the kernel command line, such as lab.modules=
#   GUEST_BOOT      network: QEMU gets no kernel, the NIC's iPXE fetches it (netboot.sh serves it);
#                   uefi: the same by UEFI firmware, with DEVICE_OPTIONS=,romfile=,bootindex=1 by the
#                   firmware's own driver
#
#   guest_accel                 prints the accelerator that runs a stock kernel on this machine
#   guest_start [QEMU-ARGUMENT...]  starts QEMU and returns at once
#   guest_wait [SECONDS]        waits for the guest to be up (120), also after a reboot
#   guest_run [-t SECONDS] COMMAND   runs COMMAND by sh in the guest, killed after SECONDS (60);
#                               its output (stdout and stderr together) is printed, its
#                               status returned. 124: the guest did not answer. One at a time.
#   guest_address               gives the guest's eth0 its addresses and sets it up
#   guest_reboot                resets the machine, as a guest's own reboot does; then guest_wait
#   guest_command_line          prints the kernel's command line
#   guest_monitor COMMAND       gives QEMU's monitor a command, such as "set_link nic off"
#   guest_ask COMMAND           the same, and prints what the monitor answers
#   guest_pid                   prints QEMU's process id; fails when it does not run
#   guest_stop                  ends QEMU in order, then by force; never fails
#   guest_kill                  ends QEMU with SIGKILL, as a crash would

guest_lab=$(dirname "$(readlink -f "${BASH_SOURCE[0]}")")
readonly guest_lab
guest_configs=$(readlink -f "$guest_lab/../../../qemu-configs")
readonly guest_configs
: "${GUEST_CACHE:=${VHOST_USER_XDP_CACHE:-$(readlink -f "$guest_lab/../../..")/.lab}}"

# KVM that exists need not run a stock kernel (nested and paravirtual ones). So it is tried once per
# boot of the machine, with the kernel that the lab uses.
guest_accel() {
  local memory=$GUEST_CACHE/accel boot known='' answer=''
  read -r boot </proc/sys/kernel/random/boot_id
  read -r known answer 2>/dev/null <"$memory" || true
  if [[ $known != "$boot" || -z $answer ]]; then
    answer=tcg,thread=multi
    [[ ! -w /dev/kvm || $(guest_probe) != *'lab: the kernel runs'* ]] || answer=kvm
    # In one go: another one may read it meanwhile.
    echo "$boot $answer" >"$memory.$BASHPID"
    mv "$memory.$BASHPID" "$memory"
  fi
  echo "$answer"
}

# The console of a machine with KVM that ends at once, if it gets so far.
guest_probe() {
  timeout 15 "$GUEST_CACHE/bin/qemu-system-x86_64" \
    -machine q35 -accel kvm -cpu host -m 256M -nodefaults -display none -no-reboot \
    -serial stdio -kernel "$GUEST_CACHE/vmlinuz" -initrd "$GUEST_CACHE/initramfs.cpio.gz" \
    -append 'console=ttyS0 quiet panic=-1 lab.probe' </dev/null 2>/dev/null | tr -d '\0' || true
}

guest_start() {
  local channel kernel boot
  kernel=$(guest_kernel_folder)
  boot=(-kernel "$kernel/vmlinuz" -initrd "$kernel/initramfs.cpio.gz"
    -append "$(guest_command_line)")
  case ${GUEST_BOOT:-} in
    network) boot=(-boot n) ;;
    uefi)
      cp "$GUEST_CACHE/uefi/OVMF_VARS.fd" "$GUEST_DIR/"
      boot=(
        -drive "if=pflash,format=raw,unit=0,readonly=on,file=$GUEST_CACHE/uefi/OVMF_CODE.fd"
        -drive "if=pflash,format=raw,unit=1,file=$GUEST_DIR/OVMF_VARS.fd"
      )
      ;;
  esac
  for channel in control monitor; do
    rm -f "$GUEST_DIR/$channel".{in,out}
    mkfifo "$GUEST_DIR/$channel".{in,out}
  done
  : >"$GUEST_DIR/console.log"
  QEMU=${QEMU:-$GUEST_CACHE/bin/qemu-system-x86_64} ACCEL=${ACCEL:-$(guest_accel)} \
    "$guest_configs/qemu-vhost-user.sh" \
    -nodefaults -no-user-config -display none \
    "${boot[@]}" \
    -serial "file:$GUEST_DIR/console.log" \
    -chardev "pipe,id=control,path=$GUEST_DIR/control" \
    -device virtio-serial-pci -device virtserialport,chardev=control \
    -chardev "pipe,id=monitor,path=$GUEST_DIR/monitor" -mon chardev=monitor,mode=readline \
    "$@" </dev/null >"$GUEST_DIR/qemu.log" 2>&1 &
  echo $! >"$GUEST_DIR/qemu.pid"
}

# Where artifacts.sh has put the kernel.
guest_kernel_folder() {
  echo "$GUEST_CACHE${GUEST_KERNEL:+/linux-$GUEST_KERNEL}"
}

guest_command_line() {
  # An emulated timer may come too late for the kernel's check of it on a busy machine.
  echo "console=ttyS0 quiet panic=0 no_timer_check $(guest_clock) net.ifnames=0 mitigations=off" \
    "${GUEST_APPEND:-}"
}

# A kernel that measures the time-stamp counter by an emulated timer, on a machine that is busy just
# then, may take one of 2,600 MHz for one of 46: its clock is a minute ahead before it is corrected.
guest_clock() {
  [[ ${ACCEL:-$(guest_accel)} == kvm* ]] || echo "tsc_early_khz=$("$GUEST_CACHE/bin/tsc-khz")"
}

guest_pid() {
  local pid
  read -r pid 2>/dev/null <"$GUEST_DIR/qemu.pid" || return 1
  kill -0 "$pid" 2>/dev/null && echo "$pid"
}

guest_wait() {
  local seconds=${1:-120}
  guest_exchange "$seconds" ready || {
    guest_explain "the guest is not up after $seconds s"
    return 124
  }
}

guest_run() {
  local seconds=60 number status
  if [[ $1 == -t ]]; then
    seconds=$2
    shift 2
  fi
  number=$BASHPID.$RANDOM$RANDOM
  guest_exchange $((seconds + 10)) "$number" "$number $seconds $(base64 -w 0 <<<"$*")" || {
    guest_explain "the guest did not answer in $((seconds + 10)) s: $*"
    return 124
  }
  base64 -d <<<"${guest_answer#=}"
  return "$guest_status"
}

# guest_exchange SECONDS NUMBER [REQUEST]: writes the request, reads lines up to the one that
# begins with NUMBER, and sets guest_status and guest_answer from it.
guest_exchange() {
  local seconds=$1 wanted=$2 request=${3:-} end=$((SECONDS + $1)) result=1
  local to from lock number status answer
  exec {lock}>>"$GUEST_DIR/control.lock"
  guest_open control
  if flock -w "$seconds" "$lock"; then
    [[ -z $request ]] || printf '%s\n' "$request" >&"$to"
    while guest_line "$from" "$end"; do
      read -r number status answer <<<"$guest_line"
      if [[ $number == "$wanted" ]]; then
        guest_status=$status guest_answer=$answer result=0
        break
      fi
    done
  fi
  exec {lock}>&- {to}>&- {from}<&-
  return $result
}

# guest_open CHANNEL: opens both pipes of it as `to` and `from`, and does not wait for the other end to
# open its own.
guest_open() {
  local both
  exec {to}<>"$GUEST_DIR/$1.in" {both}<>"$GUEST_DIR/$1.out"
  exec {from}<"$GUEST_DIR/$1.out"
  exec {both}>&-
}

# guest_line FROM END: sets guest_line to the next line; fails when END is there (in SECONDS of the
# shell), or when QEMU has ended.
guest_line() {
  local part
  guest_line=
  while ((SECONDS < $2)); do
    # As long as it takes, in one go: what comes just when the time of a read is over, bash loses.
    if IFS= read -r -t $(($2 - SECONDS)) -u "$1" part; then
      guest_line+=$part
      return 0
    fi
    guest_line+=$part
    # The end of the file: QEMU has not opened it yet, or not any more.
    guest_pid >/dev/null || return 1
    sleep 0.05
  done
  return 1
}

guest_explain() {
  {
    echo "guest: $*"
    guest_pid >/dev/null || echo "guest: QEMU does not run"
    tail -n 5 "$GUEST_DIR/qemu.log" "$GUEST_DIR/console.log"
  } >&2
}

guest_address() {
  guest_run "sysctl -qw net.ipv6.conf.eth0.accept_dad=0 net.ipv6.conf.eth0.router_solicitations=0 \
      net.ipv6.conf.eth0.disable_ipv6=0
    ip link set eth0 up &&
    ip address replace $LAB_GUEST_ADDRESS/$LAB_PREFIX dev eth0 &&
    ip address replace $LAB_GUEST_ADDRESS6/$LAB_PREFIX6 dev eth0"
}

# The guest does it itself, so that its driver resets the device first. Nothing answers, and nothing is
# read: a guest that boots fast is ready at once.
guest_reboot() {
  local to
  exec {to}<>"$GUEST_DIR/control.in"
  printf 'reboot 60 %s\n' "$(base64 -w 0 <<<'reboot -f')" >&"$to"
  exec {to}>&-
}

guest_monitor() {
  local to
  exec {to}<>"$GUEST_DIR/monitor.in"
  printf '%s\n' "$*" >&"$to"
  exec {to}>&-
}

# The monitor does one thing after the other, however late: it has a number to print before the command
# and one behind it, and the answer is what stands between them.
guest_ask() {
  local to from line last='' inside='' result=1 end=$((SECONDS + 30))
  local before=1$RANDOM$RANDOM behind=2$RANDOM$RANDOM
  guest_open monitor
  printf 'print /d %s\n%s\nprint /d %s\n' "$before" "$*" "$behind" >&"$to"
  while guest_line "$from" "$end"; do
    line=${guest_line%$'\r'}
    if [[ $line == "$behind" ]]; then
      result=0
      break
    fi
    # Held back by one line: the last one is the echo of what prints the second number.
    [[ -z $last ]] || printf '%s\n' "$last"
    [[ -z $inside ]] || last=$line
    [[ $line != "$before" ]] || inside=yes
  done
  exec {to}>&- {from}<&-
  ((result == 0)) || guest_explain "the monitor did not answer: $*"
  return $result
}

guest_stop() {
  local pid try
  pid=$(guest_pid) || return 0
  for try in TERM TERM KILL; do
    kill -"$try" "$pid" 2>/dev/null || return 0
    guest_gone "$pid" 2 && return 0
  done
  guest_gone "$pid" 20 || true
}

guest_kill() {
  local pid
  pid=$(guest_pid) || return 0
  kill -KILL "$pid" && guest_gone "$pid" 20
}

# guest_gone PID SECONDS: waits so long for the process to end, also when it is no child of this shell. One
# that is dead and that nobody has waited for yet has ended: whose child it is may take its time.
guest_gone() {
  local try
  for ((try = 0; try < 20 * $2; try++)); do
    kill -0 "$1" 2>/dev/null && ! grep -q '^State:.Z' "/proc/$1/status" 2>/dev/null || return 0
    sleep 0.05
  done
  return 1
}
