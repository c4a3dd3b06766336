#!/usr/bin/env bash
# Gate: instructions per packet of the data path, by callgrind, against the file path-cost: a
# change that makes it slower fails without any timing.
#
#   path-cost.sh            compares
#   path-cost.sh --write    writes what is measured now as the new thresholds
#   path-cost.sh ROW...     prints these rows; path-cost.sh --list names them
#
# A row is what a worker's turn executes for a packet, all calls included. The same binary gives the
# same counts; another processor may choose another memcpy, so there is a tolerance.
set -euo pipefail

gates=$(dirname "$(readlink -f "${BASH_SOURCE[0]}")")
readonly gates thresholds=$gates/path-cost
# Percent.
readonly tolerance=4
cd "$gates/../.."

main() {
  command -v valgrind >/dev/null || die "valgrind is missing: apt install valgrind"
  swift build -c release --product path-cost >&2
  local products
  products=$(swift build -c release --show-bin-path)
  if [[ ${1:-} == --list ]]; then
    exec "$products/path-cost" --list
  fi

  work=$(mktemp -d)
  trap 'rm -rf "$work"' EXIT
  # Callgrind cannot read the debug information of newer compilers.
  objcopy --strip-debug "$products/path-cost" "$work/path-cost"
  if [[ ${1:-} == --write ]]; then
    measure >"$thresholds"
    echo "wrote $(wc -l <"$thresholds") rows"
  elif (($#)); then
    measure "$@"
  else
    measure >"$work/now"
    compare "$work/now"
  fi
}

# Prints a name and instructions per packet for each row.
measure() {
  local turn end
  turn=$(symbol '9VirtioNet6WorkerC4turn')
  end=$(symbol '9path_cost7rowEnds')
  valgrind --tool=callgrind --callgrind-out-file="$work/profile" \
    --toggle-collect="$turn" --dump-after="$end" \
    "$work/path-cost" "$@" >"$work/rows" 2>"$work/log" || {
    cat "$work/log" >&2
    die "path-cost failed under callgrind"
  }
  local number=0 name packets instructions
  while read -r name packets; do
    number=$((number + 1))
    instructions=$(sed -n 's/^totals: //p' "$work/profile.$number")
    awk -v name="$name" -v sum="$instructions" -v packets="$packets" \
      'BEGIN { printf "%s %.1f\n", name, sum / packets }'
  done <"$work/rows"
}

# The mangled name of the only function whose name begins so.
symbol() {
  local names
  names=$(nm "$work/path-cost" | awk -v start="\$s$1" \
    'index($3, start) == 1 && $3 ~ /F$/ { print $3 }')
  [[ -n $names && $names != *$'\n'* ]] || die "not one function $1 in path-cost: '$names'"
  printf '%s' "$names"
}

compare() {
  awk -v tolerance="$tolerance" '
    NR == FNR { limit[$1] = $2; next }
    { seen[$1] = 1 }
    !($1 in limit) { print $1 ": no threshold, " $2 " now"; bad++; next }
    $2 > limit[$1] * (1 + tolerance / 100) {
      printf "%s: %.1f instructions per packet, the threshold is %.1f\n", $1, $2, limit[$1]; bad++
    }
    $2 < limit[$1] * (1 - tolerance / 100) {
      printf "note: %s has fallen from %.1f to %.1f: path-cost.sh --write\n", $1, limit[$1], $2
    }
    { rows++ }
    END {
      for (name in limit) if (!(name in seen)) { print name ": not measured any more"; bad++ }
      if (bad) { print bad " rows: make the data path cheaper, or say why not and path-cost.sh --write"; exit 1 }
      print rows " rows of instructions per packet, within the thresholds"
    }' "$thresholds" "$1"
}

die() {
  echo "path-cost.sh: $*" >&2
  exit 1
}

main "$@"
