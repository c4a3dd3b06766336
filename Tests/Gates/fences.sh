#!/usr/bin/env bash
# Gate: the handshakes of Virtqueue/Notification.swift have their fence, where no test can tell. A
# side that stores what it wants, or what it did, and then looks at the other side must not have its
# look done first: x86_64 may do so once in a million times, aarch64 more readily.
#
# 1. In what the optimiser made of the module (LLVM IR, where accesses to shared memory are atomic
#    and so differ from all others): no way through a function leads from a store to shared memory to
#    a load of it but through a full fence. What is called may store. `needsCall` begins after a store,
#    that of the used index.
# 2. In the machine code of the release build: those functions, and the one of the data path that
#    has them inlined, have as many full fences.
# 3. In machine code for aarch64, made from the IR of 1 by the toolchain's own compiler, since it
#    has no standard library for aarch64: as many `dmb ish`. That shows what becomes of these
#    functions there, given the same optimisations; the module was never compiled for aarch64.
#
# The AF_XDP rings need none: a kernel that wants to be woken for the TX ring may say so after its
# last look at it, so that no fence of ours would do, and a worker whose frames wait looks again.
set -euo pipefail

gates=$(dirname "$(readlink -f "${BASH_SOURCE[0]}")")
readonly gates
cd "$gates/../.."

readonly enable='11enableKicks6beyondSbAA13QueuePositionV_tF' call='9needsCallSbyF'
failed=0

main() {
  local tools products work queue function count
  tools=$(dirname "$(readlink -f "$(command -v swiftc)")")
  products=$(swift build -c release --show-bin-path)
  [[ -e $products/Virtqueue.build ]] ||
    die "no release build in $products: run 'make build' first"
  work=$(mktemp -d)
  # shellcheck disable=SC2064 # the value of now
  trap "rm -rf '$work'" EXIT

  # As Package.swift has it compiled for a release; warnings are the build's business.
  swiftc -emit-ir -O -wmo -parse-as-library -suppress-warnings -module-name Virtqueue \
    -package-name project -swift-version 6 -enable-upcoming-feature ExistentialAny \
    -enable-upcoming-feature InternalImportsByDefault \
    -enable-upcoming-feature MemberImportVisibility -I "$products/Modules" \
    -Xcc -fmodule-map-file=Sources/CLinux/include/module.modulemap -Xcc -ISources/CLinux/include \
    Sources/Virtqueue/*.swift -o "$work/module.ll"

  # Instructions of this kind of CPU: of a spinning thread, and a hint about the cache.
  sed -e '/llvm\.x86\./d' -e '/^target /d' -e '/asm sideeffect "prefetchw/d' -e 's/"\(target-cpu\|target-features\|tune-cpu\)"="[^"]*"//g' \
    "$work/module.ll" >"$work/any.ll"
  "$tools/clang" --target=aarch64-unknown-linux-gnu -Wno-override-module -O2 -fPIC -c -x ir \
    "$work/any.ll" -o "$work/aarch64.o"
  "$tools/llvm-objdump" -d --no-show-raw-insn "$work/aarch64.o" >"$work/aarch64"
  "$tools/llvm-objdump" -d --no-show-raw-insn "$products"/{Virtqueue,VirtioNet}.build/*.o >"$work/native"

  for queue in 05Split 06Packed 03Any; do
    for function in "$enable" "$call"; do
      function="\$s9Virtqueue${queue}A0$([[ $queue == 03Any ]] && echo O || echo V)$function"
      count=$(awk -v function_name="$function" -v begins_stored="$([[ $function == *"$call" ]] && echo 1)" \
        -f "$gates/fences.awk" "$work/module.ll") || failed=1
      expect "$work/native" native "$function" "${count:-1}"
      expect "$work/aarch64" aarch64 "$function" "${count:-1}"
    done
  done
  # One for each format of a ring.
  expect "$work/native" native "\$s9VirtioNet12TransmitPathC3runSiyF" 2
  ((failed)) || echo "the handshakes of split and packed rings have their fences, here and on aarch64"
  exit $failed
}

# expect LISTING CPU FUNCTION COUNT: the function has at least so many full fences there.
expect() {
  local found
  found=$(awk -v wanted="<$3>:" '
    /^[0-9a-f]+ </ { inside = $2 == wanted; seen += inside }
    inside && (/[ \t](mfence|lock)/ || /[ \t]dmb[ \t]+ish$/) { count++ }
    END { print seen ? count + 0 : "none" }' "$1")
  if [[ $found == none ]]; then
    complain "$2: no function $(swift demangle --compact "$3"): renamed or inlined? correct the list"
  elif ((found < $4)); then
    complain "$2: $(swift demangle --compact "$3") has $found full fences, not $4"
  fi
}

complain() {
  echo "fences: $*" >&2
  failed=1
}

die() {
  echo "fences.sh: $*" >&2
  exit 1
}

main "$@"
