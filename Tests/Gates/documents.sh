#!/usr/bin/env bash
# Gate: what documents name is what the code has. Every option is in docs/operations.md, every counter
# in docs/diagnosis.md; every relative link leads to a file, and to a heading in it where it names one.
# (Features: features.sh.)
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

# What is no example: neither a heading nor a link stands in a fence.
prose() {
  awk '/^ *```/ { fenced = !fenced; next } !fenced' "$1"
}

# The anchors of a document, as GitHub makes them of its headings: the text of a link alone, small
# letters, no punctuation, hyphens for blanks; one that was there before gets a number.
anchors() {
  prose "$1" | sed -nE 's/\[([^]]*)\]\([^)]*\)/\1/g; s/^#{1,6} +//p' | awk '{
    anchor = tolower($0)
    gsub(/[^a-z0-9_ -]/, "", anchor)
    gsub(/ /, "-", anchor)
    print seen[anchor]++ ? anchor "-" (seen[anchor] - 1) : anchor
  }'
}

# The file is there, and so is the heading behind the number sign.
links=0
check_links() {
  local file link target anchor
  for file in README.md docs/*.md; do
    while read -r link; do
      links=$((links + 1))
      target=$file
      [[ $link == '#'* ]] || target=$(dirname "$file")/${link%%#*}
      if [[ ! -e $target ]]; then
        complain "$file: the link $link leads nowhere: there is no file $target"
      elif [[ $link == *'#'* ]]; then
        anchor=${link#*#}
        anchors "$target" | grep -xF -e "$anchor" >/dev/null ||
          complain "$file: the link $link leads nowhere: $target has no heading #$anchor"
      fi
    done < <(prose "$file" | grep -oE '\]\([^) ]+' | cut -c 3- | grep -vE '^[a-z]+:')
  done
}

# Not by a pipe, where the failure would be noted in a process that ends.
named option docs/operations.md < <(options)
named counter docs/diagnosis.md < <(counters)
check_links
((failed)) || echo "$(options | wc -l) options, $(counters | wc -l) counters are documented; $links links lead somewhere"
exit $failed
