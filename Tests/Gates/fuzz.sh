#!/usr/bin/env bash
# Builds the fuzzers (libFuzzer with AddressSanitizer) and runs them.
#
#   fuzz.sh all|TARGET SECONDS [LIBFUZZER-ARGUMENT...]
#
# The corpus grows in .build-fuzz/corpus/TARGET and is used again. An input that fails is written to
# .build-fuzz/crash-*; it becomes a test, and is repeated by
#
#   .build-fuzz/release/TARGET .build-fuzz/crash-...
set -euo pipefail

cd "$(dirname "$(readlink -f "${BASH_SOURCE[0]}")")/../.."
readonly scratch=.build-fuzz

wanted=${1:-all}
seconds=${2:-60}
shift $(($# < 2 ? $# : 2))

targets=()
for folder in Tests/Fuzz/*/; do
  name=$(basename "$folder")
  [[ $wanted != all && $wanted != "$name" ]] || targets+=("$name")
done
((${#targets[@]})) || {
  echo "fuzz.sh: no fuzzer '$wanted' in Tests/Fuzz: all, $(ls -m Tests/Fuzz)" >&2
  exit 2
}

for target in "${targets[@]}"; do
  FUZZ=1 swift build -c release --scratch-path $scratch --product "$target"
done
for target in "${targets[@]}"; do
  corpus=$scratch/corpus/$target
  mkdir -p "$corpus"
  echo "fuzzing: $target for $seconds s"
  $scratch/release/"$target" "$corpus" -max_total_time="$seconds" -artifact_prefix=$scratch/ \
    -timeout=10 -verbosity=0 -print_final_stats=1 "$@" 2>&1 | tee "$scratch/$target.log"
  # A fuzzer that never called its function has found nothing either.
  grep -q '^stat::number_of_executed_units: [1-9]' "$scratch/$target.log" || {
    echo "fuzz.sh: $target ran nothing" >&2
    exit 1
  }
done
