#!/usr/bin/env bash
# Runs the stages of `make test` one after the other, and says what each took.
#
#   stages.sh all | check | gates | release-tests | system-tests     a sequence of stages
#   stages.sh step NAME                                              one of them, without the table
#
# A stage that fails does not keep the later ones from running, except the build, without which
# there is nothing to test. The last stage of all prints the last line: the test runner's own, or,
# when a stage failed, which ones did, below what each of them said of it: a log of which only the
# end was kept tells the reason all the same.
set -euo pipefail

gates=$(dirname "$(readlink -f "${BASH_SOURCE[0]}")")
readonly gates
cd "$gates/../.."

readonly fuzz_seconds=${FUZZ_SECONDS:-60}
# Apart from the daemon's own build: these tests need the internals, which it does without.
readonly release_tests=.build-release-tests

table=()
failed=()
outputs=

main() {
  case ${1:-all} in
    all)
      need_root
      stage lint
      stage build
      stage gates
      stage unit-tests
      stage release-tests
      stage path-cost
      stage fuzz
      stage thread-sanitizer
      stage laboratory
      last_stage system-tests
      ;;
    check)
      stage lint
      stage build
      stage gates
      stage release-tests
      last_stage unit-tests
      ;;
    gates)
      stage build
      last_stage gates
      ;;
    release-tests) last_stage release-tests ;;
    system-tests)
      need_root
      stage build
      stage laboratory
      last_stage system-tests
      ;;
    step) step "$2" ;;
    *)
      echo "stages.sh: unknown argument '$1': all, check, gates, release-tests, system-tests" >&2
      exit 2
      ;;
  esac
}

step() {
  case $1 in
    lint)
      "$gates/lint.sh"
      python3 -B -m unittest discover --start-directory Tests/Bench
      ;;
    build)
      resolve
      swift build -c release --product vhost-user-xdp
      ;;
    gates)
      local status=0
      "$gates/hot-functions.sh" || status=1
      "$gates/fences.sh" || status=1
      "$gates/unsafe-count.sh" || status=1
      "$gates/foundation.sh" || status=1
      "$gates/imports.sh" || status=1
      "$gates/documents.sh" || status=1
      "$gates/features.sh" || status=1
      "$gates/install.sh" || status=1
      return "$status"
      ;;
    # One after the other, so that a test which looks at time has the machine to itself; what tests do
    # to each other is seen in the release-tests, which run side by side.
    unit-tests) swift test --disable-xctest --skip SystemTests --no-parallel ;;
    # Counts of retains and allocations mean something only in an optimised build, and a worker that
    # falls asleep is looked for longer.
    release-tests)
      WAKE_UP_SECONDS=${WAKE_UP_SECONDS:-20} swift test -c release -Xswiftc -enable-testing --scratch-path "$release_tests" \
        --disable-xctest --skip SystemTests
      ;;
    # Instructions, not seconds: a busy machine makes no difference.
    path-cost)
      Tests/System/lab/packages.sh build lab
      "$gates/path-cost.sh"
      ;;
    fuzz) "$gates/fuzz.sh" all "$fuzz_seconds" ;;
    thread-sanitizer) "$gates/threads.sh" ;;
    # Packages, QEMU and a guest's kernel; nothing is done when all is there.
    laboratory)
      Tests/System/lab/packages.sh build lab
      Tests/System/lab/artifacts.sh
      ;;
    # FILTER, where it is set, is a pattern of names: NetworkBoot/uefi.  The faults have a front-end of
    # our own, which churns faster than others can be started.
    system-tests)
      swift build -c release --product bench-driver
      SYSTEM_TESTS=1 swift test --disable-xctest --filter "SystemTests${FILTER:+/.*(${FILTER})}"
      ;;
  esac
}

# Fetches the packages that this one depends on, in a while where the network fails at first. All later
# builds have them from there.
resolve() {
  local pause
  for pause in 5 30 90; do
    swift package resolve && return
    sleep "$pause"
  done
  swift package resolve
}

need_root() {
  [[ $EUID -eq 0 ]] || {
    echo "the system tests make network namespaces and AF_XDP sockets: run as root," \
      "or 'make check' for all other tests" >&2
    exit 1
  }
}

stage() {
  local start=$SECONDS verdict=ok
  printf '\n== %s\n' "$1"
  run "$1" || verdict=FAILED
  table+=("$(printf '%-16s %5d s  %s' "$1" $((SECONDS - start)) "$verdict")")
  printf -- '-- %s: %d s, %s\n' "$1" $((SECONDS - start)) "$verdict"
  [[ $1 != build || $verdict == ok ]] || finish
}

# Prints what the others took before it, since the last line is its own.
last_stage() {
  if ((${#table[@]})); then
    printf '\n== stages so far\n'
    printf '%s\n' "${table[@]}"
  fi
  printf '\n== %s\n' "$1"
  run "$1" || true
  finish
}

# Runs a stage and keeps what it prints until the end.
run() {
  [[ $outputs ]] || {
    outputs=$(mktemp -d)
    trap 'rm -rf "$outputs"' EXIT
  }
  # A process of its own: `set -e` has no effect in a function whose status is looked at.
  "$gates/stages.sh" step "$1" 2>&1 | tee "$outputs/$1" && return
  failed+=("$1")
  return 1
}

# Prints what a stage said of its failure: a test runner's marks, or else errors, or else its last lines.
reasons() {
  printf '\n== %s, which failed:\n' "$1"
  marked "$1" || errors "$1" || tail -n 30 "$outputs/$1"
}

# What a test runner marked as failed, each with the lines that follow it: a program's own words.  Fails
# if there is none.  A test may print all that it compared.
marked() {
  awk '/^(◇|✔|✘|↳)/ { shown = /^✘/ ? 15 : 0 } shown-- > 0' "$outputs/$1" | cut -c 1-300 | tail -n 60 | grep .
}

errors() {
  grep -aE 'error:|FAILED|[Ff]atal' "$outputs/$1" | cut -c 1-300 | tail -n 40 | grep .
}

finish() {
  ((${#failed[@]})) || exit 0
  local list name
  for name in "${failed[@]}"; do
    reasons "$name"
  done
  printf -v list '%s, ' "${failed[@]}"
  echo "failed: ${list%, }" >&2
  exit 1
}

main "$@"
