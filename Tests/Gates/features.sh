#!/usr/bin/env bash
# Gate: the tables of docs/features.md are those of the program, which has them from its feature
# table (Sources/VirtioNet/FeatureTable.swift), and the tests that they name exist.
#
#   features.sh            compares, with the program that `make build` built
#   features.sh --write    builds the program (debug) and writes the tables
set -euo pipefail

cd "$(dirname "$(readlink -f "${BASH_SOURCE[0]}")")/../.."
readonly document=docs/features.md
readonly begin='<!-- tables: written by make features -->' end='<!-- end of the tables -->'
program=.build/release/vhost-user-xdp

die() {
  echo "features: $*" >&2
  exit 1
}

# The document with the tables of the program.
written() {
  local tables
  tables=$("$program" capabilities --markdown) || die "$program capabilities --markdown failed"
  BEGIN=$begin END=$end TABLES=$tables awk '
    $0 == ENVIRON["END"] { inside = 0 }
    !inside { print }
    $0 == ENVIRON["BEGIN"] { inside = 1; print "\n" ENVIRON["TABLES"] "\n" }
  ' "$document"
}

# The last column of every row.
tests() {
  "$program" capabilities --markdown | awk -F ' [|] ' '/^[|] `/ { print $5 }' |
    sed 's/ *|$//' | grep . | sort -u
}

if [[ $(grep -cxF -e "$begin" -e "$end" "$document") != 2 ]]; then
  die "$document needs the two lines '$begin' and '$end'"
fi

if [[ ${1:-} == --write ]]; then
  swift build --product vhost-user-xdp >&2
  program=.build/debug/vhost-user-xdp
  text=$(written)
  printf '%s\n' "$text" >"$document"
  exit 0
fi

[[ -x $program ]] || die "$program is missing: run 'make build' before"
failed=0
difference=$(diff "$document" <(written)) || {
  echo "features: $document (<) and the program (>) differ; run 'make features':" >&2
  grep '^[<>]' <<<"$difference" >&2
  failed=1
}
while read -r title; do
  grep -rqF --include='*.swift' "\"$title\"" Tests || {
    echo "features: no test in Tests has the title \"$title\"" >&2
    failed=1
  }
done < <(tests)
((failed)) || echo "$(tests | wc -l) tests are named by the feature tables, and exist"
exit $failed
