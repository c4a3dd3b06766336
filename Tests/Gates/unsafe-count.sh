#!/usr/bin/env bash
# Gate: how often each module says `unsafe` or `@unchecked`, against the ceilings in the file
# unsafe-ceilings. A ceiling may only fall; one that is raised is raised in a review, in the commit
# that needs it, with the reason in its message.
#
#   unsafe-count.sh            compares
#   unsafe-count.sh --write    writes the counts of now as the ceilings
#
# `unsafe` marks an expression that the compiler cannot check (strict memory safety). A module
# without a line in the list has the ceiling 0: only those that map or parse foreign memory have one.
set -euo pipefail

gates=$(dirname "$(readlink -f "${BASH_SOURCE[0]}")")
readonly gates
readonly ceilings=$gates/unsafe-ceilings
cd "$gates/../.."

# counts: "MODULE NUMBER" for each module in Sources. Comments do not count.
counts() {
  local folder files
  for folder in Sources/*/; do
    mapfile -t files < <(find "$folder" -name '*.swift')
    ((${#files[@]})) || continue
    printf '%s %d\n' "$(basename "$folder")" \
      "$(sed 's,//.*,,' "${files[@]}" | grep -owE 'unsafe|unchecked' | wc -l)"
  done
}

write() {
  {
    sed -n '/^#/p' "$ceilings"
    counts | awk '$2 > 0'
  } >"$ceilings.new"
  mv "$ceilings.new" "$ceilings"
}

compare() {
  counts | awk '
    FNR == NR { if ($0 !~ /^#/ && NF) ceiling[$1] = $2; next }
    {
      total += $2
      if ($2 > ceiling[$1] + 0) {
        failed = 1
        printf "%s says `unsafe` or `@unchecked` %d times, its ceiling is %d\n", $1, $2, ceiling[$1]
      } else if ($2 < ceiling[$1])
        printf "note: %s has fallen to %d: lower its ceiling %d (--write)\n", $1, $2, ceiling[$1]
    }
    END {
      if (!failed) printf "%d uses of `unsafe` and `@unchecked`, within the ceilings\n", total
      exit failed
    }' "$ceilings" -
}

case ${1:-} in
  '') compare ;;
  --write) write ;;
  *)
    echo "unsafe-count.sh: unknown argument '$1': --write or none" >&2
    exit 2
    ;;
esac
