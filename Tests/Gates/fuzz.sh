#!/usr/bin/env bash
# Builds the fuzzers (libFuzzer with AddressSanitizer) and runs them, as many at a time as there are CPUs.
#
#   fuzz.sh all|TARGET SECONDS [LIBFUZZER-ARGUMENT...]
#   fuzz.sh corpus                        writes Tests/Fuzz/corpus anew from what was found so far
#
# Each begins with Tests/Fuzz/corpus/TARGET; what it adds grows in .build-fuzz/corpus/TARGET and is used
# again. It fails if an input fails, and if its goals (Tests/Fuzz/Fuzzing) are not all reached. An input
# that fails is written to .build-fuzz/crash-*; it becomes a test, and is repeated by
#
#   .build-fuzz/release/TARGET .build-fuzz/crash-...
set -euo pipefail

cd "$(dirname "$(readlink -f "${BASH_SOURCE[0]}")")/../.."
readonly scratch=.build-fuzz
readonly corpora=Tests/Fuzz/corpus
# Of the inputs that are committed.
readonly longest_input=2048

wanted=${1:-all}
seconds=${2:-60}
shift $(($# < 2 ? $# : 2))
[[ $wanted != corpus ]] || seconds=0

targets=()
for folder in Tests/Fuzz/*-fuzz/; do
  name=$(basename "$folder")
  [[ $wanted != all && $wanted != corpus && $wanted != "$name" ]] || targets+=("$name")
done
((${#targets[@]})) || {
  echo "fuzz.sh: no fuzzer '$wanted': all, $(cd Tests/Fuzz && ls -md -- *-fuzz)" >&2
  exit 2
}

build() {
  local target
  for target in "${targets[@]}"; do
    FUZZ=1 swift build -c release --scratch-path $scratch --product "$target"
  done
}

# One target, its own lines into its own file: two that run at once stay readable.
run() {
  local target=$1 log=$scratch/$1.log
  shift
  mkdir -p "$scratch/corpus/$target"
  "$scratch/release/$target" "$scratch/corpus/$target" "$corpora/$target" \
    -max_total_time="$seconds" -artifact_prefix=$scratch/ -timeout=20 -verbosity=0 \
    -print_funcs=0 -print_final_stats=1 "$@" >"$log" 2>&1 || {
    sed '/: NEW_FUNC/d; /# Uses: /d' "$log" >&2
    echo "fuzz.sh: $target: an input fails, see above; '.build-fuzz/release/$target INPUT' repeats it" >&2
    return 1
  }
  # A fuzzer that never called its function, or whose inputs all fail at the door, has found nothing
  # either.
  grep -q '^stat::number_of_executed_units: [1-9]' "$log" || {
    echo "fuzz.sh: $target ran nothing" >&2
    return 1
  }
  grep -q '^goals: all ' "$log" || {
    echo "fuzz.sh: $target: $(grep '^goals: ' "$log"): an input for it belongs into $corpora/$target" \
      "(Tests/Fuzz/seeds.py)" >&2
    return 1
  }
  awk -v target="$target" '
    /^stat::number_of_executed_units:/ { runs = $2 }
    /^stat::average_exec_per_sec:/ { rate = $2 }
    /^stat::new_units_added:/ { found = $2 }
    /^goals:/ { goals = $0 }
    END { printf "%-20s %10d inputs, %d a second, %d new; %s\n", target, runs, rate, found, goals }
  ' "$log"
}

# The seeds, and few and small inputs that cover what all that were found cover.
minimise() {
  local target=$1 work
  work=$(mktemp -d)
  mkdir -p "$scratch/corpus/$target"
  python3 -B Tests/Fuzz/seeds.py "$work/seeds"
  mkdir -p "$work/seeds/$target" "$corpora/$target"
  "$scratch/release/$target" -set_cover_merge=1 -use_counters=0 -max_len=$longest_input \
    -verbosity=0 "$work/seeds/$target" "$corpora/$target" "$scratch/corpus/$target" \
    >"$scratch/$target.log" 2>&1
  rm -rf "${corpora:?}/$target"
  mv "$work/seeds/$target" "$corpora/$target"
  chmod -R u=rwX,go=rX "$corpora/$target"
  rm -rf "$work"
  echo "$target: $(find "$corpora/$target" -type f | wc -l) inputs, $(du -sb "$corpora/$target" | cut -f1) bytes"
}

build
if [[ $wanted == corpus ]]; then
  mkdir -p "$corpora"
  for target in "${targets[@]}"; do minimise "$target"; done
  exit 0
fi

echo "fuzzing for $seconds s each: ${targets[*]}"
status=0
running=0
for target in "${targets[@]}"; do
  if ((running == $(nproc))); then
    wait -n || status=1
    running=$((running - 1))
  fi
  run "$target" "$@" &
  running=$((running + 1))
done
while ((running > 0)); do
  wait -n || status=1
  running=$((running - 1))
done
exit "$status"
