#!/usr/bin/env bash
# Gate: no Foundation. The sources import none of it (a build plugin may), and the daemon is not
# linked with the libraries that bring locale data along: they would make start-up and memory
# several times as large. (FoundationEssentials has none; swift-argument-parser uses it.)
set -euo pipefail

cd "$(dirname "$(readlink -f "${BASH_SOURCE[0]}")")/../.."

failed=0
if grep -rnE '^[^/]*\bimport[[:space:]]+Foundation' Sources --include='*.swift'; then
  echo "the lines above import Foundation: use Glibc or CLinux" >&2
  failed=1
fi

products=$(swift build -c release --show-bin-path)
daemon=$products/vhost-user-xdp
[[ -x $daemon ]] || {
  echo "foundation.sh: no release build in $products: run 'make build' first" >&2
  exit 1
}
libraries=$(readelf -d "$daemon" | sed -n 's/.*(NEEDED).*\[\(.*\)\]/\1/p')
if grep -E '^lib_?Foundation(ICU|Internationalization)?\.so|^libicu' <<<"$libraries"; then
  echo "the daemon is linked with the libraries above: find the import that needs them" >&2
  failed=1
fi
((failed)) || echo "no Foundation in the sources; the daemon needs $(wc -l <<<"$libraries") libraries"
exit $failed
