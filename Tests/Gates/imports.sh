#!/usr/bin/env bash
# Gate: imports go one way. A target imports only those modules of the project that Package.swift
# declares as its dependencies; SwiftPM refuses circles of those, and finds undeclared modules as
# soon as something else has built them. (Its own check of this leaves programs and tests out.)
set -euo pipefail

cd "$(dirname "$(readlink -f "${BASH_SOURCE[0]}")")/../.."

# Lines "TARGET PATH DEPENDENCY..." of all targets.
targets() {
  swift package describe --type text | awk '
    function flush() { if (name != "" && path != "") print name, path, list; name = path = list = "" }
    /^Targets:/ { inside = 1; next }
    !inside { next }
    /^    Name: / { flush(); name = $2; deps = 0 }
    /^    Path: / { path = $2 }
    /^    [A-Z]/ { deps = ($0 == "    Target dependencies:") }
    /^        / && deps { list = list " " $1 }
    END { flush() }'
}

declared=$(targets)
names=" $(awk '{ print $1 }' <<<"$declared" | tr '\n' ' ')"
failed=0
while read -r name path dependencies; do
  [[ -d $path ]] || continue
  # "@testable public import struct Module.Type" and all that is simpler.
  while IFS=: read -r file line module; do
    [[ $names == *" $module "* ]] || continue
    [[ " $dependencies " == *" $module "* ]] || {
      echo "$file:$line: $name imports $module, which Package.swift does not declare for it"
      failed=1
    }
  done < <(grep -rnE '^[^/]*\bimport[[:space:]]' "$path" --include='*.swift' |
    sed -E 's/:[^:]*\bimport[[:space:]]+((struct|class|enum|protocol|func|var|let|typealias)[[:space:]]+)?([A-Za-z0-9_]+).*/:\3/')
done <<<"$declared"
((failed)) || echo "$(wc -l <<<"$declared") targets import what they declare"
exit $failed
