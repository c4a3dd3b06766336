#!/usr/bin/env bash
# Gate: what documents name is what the code has. Every option is in docs/operations.md, every counter
# in docs/diagnosis.md; every relative link leads to a file. (Features: features.sh.)
set -euo pipefail

cd "$(dirname "$(readlink -f "${BASH_SOURCE[0]}")")/../.."
failed=0

complain() {
  echo "documents: $*" >&2
  failed=1
}

# named WHAT FILE: each line of the input is in FILE, in code quotes or with a value after it.
named() {
  local what=$1 file=$2 word
  while read -r word; do
    grep -qE "\`${word}[\`=]" "$file" || complain "$file does not explain the $what $word"
  done
}

options() {
  sed -n 's/.*\.customLong("\([^"]*\)").*/--\1/p' Sources/vhost-user-xdp/*.swift | sort -u
}

# The names of drop reasons, of the other counters of a ring, and of those that ports keep.
counters() {
  sed -n 's/^ *case \.[a-zA-Z]*: "\([a-z_]*\)"$/dropped_\1/p' Sources/VirtioNet/Counters.swift
  grep -ohE '"[a-z_]+ \\\(' Sources/VirtioNet/Counters.swift | tr -d '" \\('
  sed -n 's/^ *("\([a-z_]*\)", .*/\1/p' Sources/HostPort/*.swift
}

check_links() {
  local file link
  for file in README.md docs/*.md; do
    while read -r link; do
      [[ -e $(dirname "$file")/$link ]] || complain "$file: the link $link leads nowhere"
    done < <(grep -oE '\]\([^)#:]+' "$file" | cut -c 3-)
  done
}

options | named option docs/operations.md
counters | named counter docs/diagnosis.md
check_links
((failed)) || echo "$(options | wc -l) options, $(counters | wc -l) counters are documented"
exit $failed
