#!/usr/bin/env bash
# Gate: the data path calls nothing of the Swift runtime that counts references, allocates, checks
# exclusive access, casts or looks up types, and nothing of the standard library that might.
#
#   hot-functions.sh [MODULE-OBJECTS...]   default: the object files of the release build
#
# It reads the machine code, not the source: what the optimiser left is what runs. From the roots in
# the file hot-functions it follows every direct call to other functions of the project, so that a
# helper that was not inlined is found too. A call through a protocol cannot be followed; the
# functions behind the only protocol of the data path, HostPortQueue, are roots themselves.
set -euo pipefail

gates=$(dirname "$(readlink -f "${BASH_SOURCE[0]}")")
readonly gates
cd "$gates/../.."

main() {
  local objects=("$@") module work
  if ((${#objects[@]} == 0)); then
    local products
    products=$(swift build -c release --show-bin-path)
    for module in VirtioNet HostPort AFXDP Virtqueue GuestMemory Packet SharedRing Linux; do
      objects+=("$products/$module.build/"*.o)
    done
    [[ -e ${objects[0]} ]] || die "no release build in $products: run 'make build' first"
  fi
  command -v objdump >/dev/null || die "objdump is missing: install binutils"

  work=$(mktemp -d)
  # shellcheck disable=SC2064 # the value of now
  trap "rm -rf '$work'" EXIT
  objdump -dr --no-show-raw-insn "${objects[@]}" | awk -f "$gates/calls.awk" >"$work/calls"
  awk -F '\t' '{ print $1; if ($2 != "") print $2 }' "$work/calls" | sort -u >"$work/symbols"
  swift demangle --simplified <"$work/symbols" >"$work/demangled"
  paste "$work/symbols" "$work/demangled" >"$work/names"
  awk -F '\t' -f "$gates/hot-functions.awk" \
    "$gates/hot-functions" "$work/names" "$work/calls"
}

die() {
  echo "hot-functions.sh: $*" >&2
  exit 1
}

main "$@"
