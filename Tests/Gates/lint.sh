#!/usr/bin/env bash
# Gate: what can be seen without a build. Swift is formatted as .swift-format says; no source file
# has more than 400 lines; no file names the machine that it was written on; shell scripts are
# clean (by shellcheck, where that is installed).
set -euo pipefail

cd "$(dirname "$(readlink -f "${BASH_SOURCE[0]}")")/../.."

readonly longest=400
failed=0

# Everything that is in the repository or about to be: `git add` is not needed first.
mapfile -t files < <(git ls-files --cached --others --exclude-standard | while read -r file; do
  [[ ! -f $file ]] || echo "$file"
done)

complain() {
  echo "lint: $*" >&2
  failed=1
}

check_format() {
  swift format lint --strict --recursive Package.swift Plugins Sources Tests ||
    complain "format: 'swift format --in-place FILE' mends most of the lines above"
}

check_lengths() {
  local file lines
  for file in "${files[@]}"; do
    case $file in *.swift | *.c | *.h | *.sh | *.awk | *.py) ;; *) continue ;; esac
    lines=$(wc -l <"$file")
    ((lines <= longest)) || complain "$file has $lines lines: split it, $longest is the most"
  done
}

# Folders that exist on one machine only, this checkout's own among them, and hosts of a private
# package mirror. This script has to name what it looks for and is left out.
check_machine() {
  local pattern toolchain host
  pattern='(^|[^[:alnum:]._~/-])/(home|Users|work|opt|mnt)/[[:alnum:]]'
  pattern+="|$PWD/"
  toolchain=$(dirname "$(dirname "$(command -v swift)")")
  [[ $toolchain == /usr ]] || pattern+="|$toolchain/"
  if command -v apt-get >/dev/null; then
    # shellcheck disable=SC2016 # the dollar sign is apt's
    while read -r host; do
      case $host in '' | *.debian.org | *.ubuntu.com) ;; *) pattern+="|$host" ;; esac
    done < <(apt-get indextargets --format '$(REPO_URI)' 2>/dev/null |
      sed -n 's,^[a-z+]*://\([^/@]*@\)\?\([^/:]*\).*,\2,p' | sort -u)
  fi
  if printf '%s\n' "${files[@]}" | grep -vx Tests/Gates/lint.sh |
    xargs -d '\n' grep -nIE "$pattern" --; then
    complain "the lines above name folders or hosts of one machine: find them at run time"
  fi
}

check_scripts() {
  local file scripts=()
  for file in "${files[@]}"; do
    if head -n 1 "$file" | grep -qE '^#!.*\b(ba)?sh\b|^# shellcheck shell='; then
      scripts+=("$file")
    fi
  done
  if command -v shellcheck >/dev/null; then
    shellcheck --external-sources "${scripts[@]}" || complain "shell scripts: see above"
  else
    for file in "${scripts[@]}"; do bash -n "$file" || complain "$file: see above"; done
  fi
}

check_format
check_lengths
check_machine
check_scripts
((failed)) || echo "${#files[@]} files are clean"
exit $failed
