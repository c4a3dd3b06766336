#!/usr/bin/env bash
# Gate: `make install` puts everything in its place, for all to read whatever the umask, the unit is right
# and exposes little, and the manual has the version, every option and whole examples.
set -euo pipefail

cd "$(dirname "$(readlink -f "${BASH_SOURCE[0]}")")/../.."

# Of `systemd-analyze security`: 0 to 10.
readonly most_exposure=2.0

place=$(mktemp -d /tmp/vux-install.XXXXXX)
trap 'rm -rf "$place"' EXIT
failed=0
fail() {
  echo "install: $*"
  failed=1
}

(umask 077 && make --no-print-directory install DESTDIR="$place" >/dev/null)
binary=$place/usr/bin/vhost-user-xdp
unit=$place/usr/lib/systemd/system/vhost-user-xdp@.service
listener=$place/usr/lib/systemd/system/vhost-user-xdp@.socket
manual=$place/usr/share/man/man8/vhost-user-xdp.8
description=$place/usr/share/qemu/vhost-user/50-vhost-user-xdp.json
for file in "$binary" "$unit" "$listener" "$manual" "$description" \
  "$place"/usr/lib/{sysusers,tmpfiles}.d/vhost-user-xdp.conf; do
  [[ -s $file ]] || fail "${file#"$place"} is not there"
done
while read -r mode file; do
  [[ $mode == 644 || $file == usr/bin/* && $mode == 755 ]] || fail "/$file has the mode $mode"
done < <(find "$place" -type f -printf '%m %P\n')

export COLUMNS=80
help=$("$binary" --help && "$binary" grant --help && "$binary" capabilities --help)
while read -r option; do
  grep -qF -- "${option//-/\\-}" "$manual" || fail "the manual lacks $option"
done < <(grep -oE '^  --[a-z-]+' <<<"$help" | sort -u)
grep -qxF ".TH VHOST\\-USER\\-XDP 8 \"\" \"$("$binary" --version)\"" "$manual" ||
  fail "the manual lacks the version"
# An example stands indented, and a line that --help wraps goes on without: cut it by a backslash.
broken=$(awk '
  /^(OVERVIEW|OPTIONS):/ { inOptions = /^OPTIONS:/ }
  !inOptions && example && /^[^ ]/ { print example }
  { example = /^  / ? $0 : "" }' <<<"$help")
[[ -z $broken ]] || fail "--help breaks the example '$broken'"
python3 -c 'import json, sys; json.load(open(sys.argv[1]))["binary"]' "$description" ||
  fail "the description is no JSON"

# As an instance, with the binary where it is now. systemd-analyze needs no systemd that runs.
exposure=
command -v systemd-analyze >/dev/null || fail "no systemd-analyze: install systemd"
instance=$place/vhost-user-xdp@vm1.service
sed "s|/usr/bin/|$place/usr/bin/|" "$unit" >"$instance"
cp "$listener" "${instance%.service}.socket"
complaints=$(systemd-analyze verify --man=no "$instance" "${instance%.service}.socket" 2>&1) || complaints+=" (status $?)"
[[ -z $complaints ]] || fail "systemd-analyze verify: $complaints"
exposure=$(systemd-analyze security --offline=true --no-pager "$instance" |
  sed -nE 's/.*Overall exposure level[^:]*: ([0-9.]+).*/\1/p')
awk -v a="$exposure" -v b=$most_exposure 'BEGIN { exit !(a != "" && a <= b) }' ||
  fail "the unit's exposure is ${exposure:-not told}, at most $most_exposure is wanted"
((failed)) || echo "install: all in its place; the unit's exposure is ${exposure:-not known}"
exit $failed
