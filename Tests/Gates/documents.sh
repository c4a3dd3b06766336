#!/usr/bin/env bash
# Gate: what documents name is what the code has. Every option and every counter is in
# docs/operations.md; the features that docs/features.md calls offered are those of the code; every
# relative link leads to a file.
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

# offered FILE NAME: the members of the option set that is called NAME in FILE, as the
# specification spells them: mrgRxbuf is MRG_RXBUF.
offered() {
  sed -n "/ $2: .*[{=]/,/^  []}]/p" "$1" | grep -oE '[[:space:](]\.[a-z][A-Za-z0-9]*' |
    sed -E 's/.*\.//; s/^ring//; s/([A-Z]+|[0-9]+)/_\1/g; s/^_//; s/.*/\U&/' | sort -u
}

# documented SECTION: the features that a section of features.md calls offered.
documented() {
  awk -v title="## $1" '
    /^## / { inside = index($0, title) == 1 }
    inside && $1 == "|" && $4 ~ /^[0-9]+$/ && $6 == "offered" { gsub(/`/, "", $2); print $2 }
  ' docs/features.md | sort -u
}

compare_features() {
  local difference
  difference=$(diff <(documented "$1") <(offered "$2" "$3")) ||
    complain "features.md (<) and $2 (>) differ:" $'\n'"$(grep '^[<>]' <<<"$difference")"
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
counters | named counter docs/operations.md
compare_features 'virtio and' Sources/VirtioNet/NetDevice.swift offeredFeatures
compare_features 'vhost-user protocol' Sources/VhostUser/ProtocolFeatures.swift offered
check_links
((failed)) || echo "$(options | wc -l) options, $(counters | wc -l) counters and all features are documented"
exit $failed
