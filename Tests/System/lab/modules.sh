# shellcheck shell=bash
# Kernel modules for a file tree that a guest boots. Source this file.
#
#   modules_add MODULES TREE MODULE...   copies each MODULE, and what it depends on, from the module tree
#                                        below MODULES (lib/modules/RELEASE) into TREE

# Decompressed: any modprobe then reads them, busybox's too.
modules_add() {
  local from=$1 into=$2 release module path target
  shift 2
  release=$(basename "$from/lib/modules/"*)
  mkdir -p "$into/lib/modules/$release"
  cp "$from/lib/modules/$release"/modules.{builtin,builtin.modinfo,order} \
    "$into/lib/modules/$release/"
  depmod -b "$from" "$release"
  for module in "$@"; do
    modprobe --dirname "$from" --set-version "$release" --show-depends "$module" \
      2>/dev/null | sed -n 's/^insmod //p'
  done | sort -u | while read -r path; do
    path=${path%% *}
    target=$into/lib/modules/${path#*/lib/modules/}
    mkdir -p "${target%/*}"
    case $path in
      *.xz) xz -dc "$path" >"${target%.xz}" ;;
      *) cp "$path" "$target" ;;
    esac
  done
  depmod -b "$into" "$release"
}
